"""An open stream: read in batches, leases kept, what others left behind taken over."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import trio

from runtime.adapter import Held
from runtime.delivery import Delivery, State
from runtime.errors import SessionLost

from . import wire
from .connection import Connection, Reply
from .replies import ReplyError, refusal
from .scripts import PARK_STRAYS, PARKED, RENEW, RETIRE, evaluate
from .streams import Stream

#: Seconds for the server's good-byes when a source is closed; then it is closed without them.
CLOSE_LIMIT: Final = 0.4
#: Seconds past its own block time before a blocking read counts as dead.
READ_MARGIN: Final = 5.0
#: At least this often, in seconds, leases are renewed and those of the dead looked for.
TICK: Final = 4.0
#: A consumer that has not read for this many leases (or polls, if they are longer) and holds nothing is removed.
IDLE_LEASES: Final = 10
#: A release is due this much later than asked, in seconds, so that the server's clock agrees when we look.
SETTLE_MARGIN: Final = 0.005


class StreamReceiver:
    """Two tasks meet here. The poller calls `receive`, on a connection of its own. `keep_leases` runs beside it on the
    session's command connection; when it sees something to take over it wakes the blocking read, and the poller takes
    it, because only the poller has slots.
    """

    def __init__(
        self,
        source: Stream,
        consumer: str,
        held: Held,
        on_lost: Callable[[Delivery], None],
        commands: Connection,
        reads: Connection,
    ) -> None:
        self._source = source
        self._group = str(source.group)
        self._consumer = consumer
        self._held = held
        self._on_lost = on_lost
        self._commands = commands
        self._reads = reads
        self._client_id = 0
        #: There may be something to take over: look before the next blocking read.
        self._look = True
        self._blocking = False
        #: The poller is gone for good: a drain.
        self._left = False
        self._lag: int | None = None
        self._next_sweep = 0.0
        #: When released entries are due, by Trio's clock.
        self._due: list[float] = []
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def lag(self) -> int | None:
        return self._lag

    async def open(self) -> None:
        """Learn who we are to the server, and give back what an earlier session of this consumer never saw."""
        self._client_id = await self._reads.ask("CLIENT", "ID")
        await self._ask(self._commands, self._park_strays())

    async def receive(self, most: int) -> Sequence[Delivery]:
        try:
            while True:
                if self._look:
                    taken = await self._take_over(most)
                    # When there was something there may be more.
                    self._look = bool(taken)
                    if taken:
                        return taken
                reply = await self._read(most)
                if reply:
                    return self._deliver((row, 1) for row in reply[0][1])
        except trio.Cancelled:
            # The server would go on and hand entries to the read that nobody waits for.
            self._reads.hang_up("its poller was cancelled")
            self._left = True
            self._changed.unpark_all()
            raise

    async def _read(self, most: int) -> Reply:
        source = self._source
        block = max(int(source.poll * 1000), 1)
        command: wire.Command = ["XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", most, "BLOCK", block]
        self._blocking = True
        try:
            with trio.fail_after(source.poll + READ_MARGIN):
                return await self._ask(self._reads, [*command, "STREAMS", source.name, ">"])
        except trio.TooSlowError:
            raise SessionLost(f"a read of {source} had no answer for {source.poll + READ_MARGIN:g} s") from None
        finally:
            self._blocking = False

    async def _take_over(self, most: int) -> list[Delivery]:
        """Claim what nobody has renewed for a lease: left by the dead, or released and due."""
        stale = await self._stale(self._reads, most)
        if not stale:
            return []
        lease = int(self._source.lease * 1000)
        rows = await self._ask(
            self._reads,
            ["XCLAIM", self._source.name, self._group, self._consumer, lease, *stale],
        )
        # An entry that was deleted or trimmed while it waited is nil in some versions; it cannot be handled any more.
        return self._deliver((row, stale[row[0]] + 1) for row in rows if row is not None)

    async def _stale(self, connection: Connection, most: int) -> dict[bytes, int]:
        """Up to `most` ids that nobody has renewed for a lease, and how often each was delivered."""
        lease = int(self._source.lease * 1000)
        # Our own may be among them, if renewing failed for a while; they are held, so they are not taken again.
        count = most + len(self._held)
        rows = await self._ask(connection, ["XPENDING", self._source.name, self._group, "IDLE", lease, "-", "+", count])
        free = [(row[0], row[3]) for row in rows if row[0] not in self._held]
        return dict(free[:most])

    def _deliver(self, rows: object) -> list[Delivery]:
        deliveries = []
        for (entry_id, entry), attempt in rows:  # type: ignore[attr-defined]
            message = wire.message(self._source.name, entry_id, entry, attempt)
            deliveries.append(Delivery(message, entry_id, self._source))
        return deliveries

    # ---- leases --------------------------------------------------------------------------------------------------

    def expect(self, due: float) -> None:
        """An entry was released and is due for redelivery at `due`."""
        heapq.heappush(self._due, due + SETTLE_MARGIN)
        self._changed.unpark_all()

    async def keep_leases(self) -> NoReturn:
        """Renew what is held, report what is lost, and have the poller woken for what can be taken over."""
        period = min(TICK, self._source.lease / 4)
        next_tick = trio.current_time() + period
        while True:
            with trio.move_on_at(min(next_tick, self._due[0] if self._due else next_tick)):
                await self._changed.park()
            now = trio.current_time()
            if self._left:
                self._left = False
                await self._leave()
            while self._due and self._due[0] <= now:
                heapq.heappop(self._due)
                self._look = True
            if now >= next_tick:
                await self._renew()
                await self._look_around(now)
                self._look = self._look or bool(await self._stale(self._commands, 1))
                next_tick = trio.current_time() + period
            if self._look and self._blocking:
                await self._wake()

    async def _renew(self) -> None:
        held = {r: d for r, d in self._held.items() if d.state in (State.RECEIVED, State.HANDLING)}
        if held:
            script = evaluate(RENEW, [self._source.name], self._group, self._consumer, *held)  # type: ignore[arg-type]
            for receipt in await self._ask(self._commands, script):
                self._on_lost(held[receipt])

    async def _look_around(self, now: float) -> None:
        """See how far behind the group is, and now and then remove the consumers of processes that are long gone."""
        for row in await self._ask(self._commands, ["XINFO", "GROUPS", self._source.name]):
            group = dict(zip(row[::2], row[1::2], strict=True))
            if group[b"name"] == self._group.encode():
                self._lag = group.get(b"lag")  # since Redis 7, and nil where entries were deleted
        if now < self._next_sweep:
            return
        patience = IDLE_LEASES * max(self._source.lease, self._source.poll)
        self._next_sweep = now + patience
        consumers = await self._ask(self._commands, ["XINFO", "CONSUMERS", self._source.name, self._group])
        for row in consumers:
            consumer = dict(zip(row[::2], row[1::2], strict=True))
            name = consumer[b"name"].decode()
            # The script looks once more, in one step with the removal: one that holds anything is never removed.
            if name not in (self._consumer, PARKED) and consumer[b"idle"] > patience * 1000:
                await self._ask(self._commands, evaluate(RETIRE, [self._source.name], self._group, name))

    async def _wake(self) -> None:
        # The read may still be on its way to the server, which then has nothing to unblock yet: insist.
        while self._look and self._blocking:
            if await self._ask(self._commands, ["CLIENT", "UNBLOCK", self._client_id]):
                return
            await trio.sleep(0.02)

    # ---- the end -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Give back what the server handed to a read that was cut off, and leave the group."""
        self._reads.hang_up("its source was closed")
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_LIMIT):
            try:
                await self._leave()
                await self._commands.call([evaluate(RETIRE, [self._source.name], self._group, self._consumer)])
            except SessionLost:
                pass  # whoever opens the source next does it, or the lease runs out

    async def _leave(self) -> None:
        # KILL first, so that no entry can be handed to the dead read after we have looked.
        await self._commands.call([["CLIENT", "KILL", "ID", self._client_id], self._park_strays()])

    def _park_strays(self) -> wire.Command:
        held: list[bytes] = list(self._held)  # type: ignore[arg-type]
        most, lease = len(held) + 1000, int(self._source.lease * 1000)
        arguments = (self._group, self._consumer, PARKED, lease, most)
        return evaluate(PARK_STRAYS, [self._source.name], *arguments, *held)

    async def _ask(self, connection: Connection, command: wire.Command) -> Reply:
        try:
            return await connection.ask(*command)
        except ReplyError as error:
            raise refusal(error, f"stream {self._source.name!r}") from None
