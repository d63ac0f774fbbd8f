"""The publishing half of a session: batches in flight, destinations declared, a blocked server waited for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import trio

from runtime.adapter import Outgoing
from runtime.errors import OutcomeUnknown, Refused, Rejected, SessionLost

from .channel import ChannelClosed
from .confirms import ConfirmChannel, Sheet, open_confirms
from .connection import Connection
from .queues import Exchange, Queue
from .topology import declare

#: So many destinations are remembered as declared; an application may publish to any number of names.
_REMEMBERED: Final = 10_000
#: Channels for exchanges.
_LANES: Final = 100


class Publisher:
    """Destinations are declared when they are first published to, and on the other connection: one that has published
    is not read from while the server is short of memory or disk."""

    def __init__(self, connection: Connection, declaring: Connection) -> None:
        self._connection = connection
        self._declaring = declaring
        self._declared: set[Queue | Exchange] = set()
        #: By exchange, so that one that is gone, or forbidden, takes the confirms of no other with its channel.
        self._confirms: dict[str, ConfirmChannel] = {}
        self._opening = trio.Lock()
        #: Hears of confirms, of blocking, and of the end.
        self._news = trio.lowlevel.ParkingLot()
        #: Whom to tell that the server takes no messages.
        self._paused: Callable[[str], None] = lambda why: None
        connection.on_news = self._hear

    def _hear(self) -> None:
        self._news.unpark_all()

    @property
    def blocked(self) -> str | None:
        """Why the server takes no messages for now."""
        return self._connection.blocked

    async def writable(self, paused: Callable[[str], None]) -> None:
        """Wait until the server takes messages; `paused` hears why it does not. Raises `SessionLost`."""
        self._paused = paused
        while (why := self.blocked) is not None:
            if self._connection.ended is not None:
                raise SessionLost(str(self._connection.ended), sent=False)
            paused(f"RabbitMQ takes no messages for now: {why}")
            await self._news.park()

    async def publish(self, batch: Sequence[Outgoing], patience: float) -> list[Exception | None]:
        """Send the batch and wait for its confirms; one result per item, None for confirmed.

        A blocked server confirms nothing. If it is after `patience` seconds, what is left is `OutcomeUnknown`. Raises
        `SessionLost` if the session ends before the first confirm, with ``sent=False`` if not a byte of a message was
        queued for the wire.
        """
        give_up_at = trio.current_time() + patience
        results = await self._declare(batch)
        sheets = [Sheet(i, item) for i, item in enumerate(batch) if results[i] is None]
        left, sent = sheets, False
        while left:
            lanes: defaultdict[str, list[Sheet]] = defaultdict(list)
            for sheet in left:
                lanes[sheet.exchange].append(sheet)
            for exchange, lane in lanes.items():
                try:
                    (await self._open(exchange)).send(lane)
                except SessionLost as loss:
                    raise SessionLost(str(loss), sent=sent) from None
                except (ChannelClosed, Refused) as refusal:
                    for sheet in lane:
                        sheet.settle(Rejected(f"{sheet} cannot be sent: {refusal}"))
                else:
                    sent = True
            try:
                await self._settled(left, give_up_at)
            except SessionLost as loss:
                if all(sheet.waits for sheet in sheets):
                    raise
                # Those that have their confirm keep it.
                for sheet in left:
                    if sheet.waits:
                        sheet.settle(OutcomeUnknown(f"{sheet} was sent, and not confirmed before the end: {loss}"))
                break
            left = [sheet for sheet in left if sheet.again]
            for sheet in left:
                sheet.again = False
        for sheet in sheets:
            results[sheet.index] = sheet.error
            if isinstance(sheet.error, Rejected):
                # Whatever has become of its destination, the next one there looks again.
                self._declared.discard(sheet.item.source)
        return results

    async def _settled(self, sheets: Sequence[Sheet], give_up_at: float) -> None:
        """Wait until none of `sheets` waits for a confirm. Raises `SessionLost`."""
        for sheet in sheets:
            while sheet.waits and not sheet.again:
                if self._connection.ended is not None:
                    raise SessionLost(str(self._connection.ended))
                if self.blocked is None:
                    await self._news.park()
                elif trio.current_time() < give_up_at:
                    self._paused(f"RabbitMQ takes no messages for now: {self.blocked}")
                    with trio.move_on_at(give_up_at):
                        await self._news.park()
                else:
                    text = f"{sheet} was sent and not confirmed: RabbitMQ takes no messages for now ({self.blocked})"
                    sheet.settle(OutcomeUnknown(text))

    async def _declare(self, batch: Sequence[Outgoing]) -> list[Exception | None]:
        """What must be there is created; what cannot be is its messages' error."""
        results: list[Exception | None] = [None] * len(batch)
        refused: dict[Queue | Exchange, str] = {}
        for i, item in enumerate(batch):
            destination = item.source
            if destination in self._declared:
                continue
            if destination not in refused:
                try:
                    await declare(self._declaring, destination)
                except (ChannelClosed, Refused) as error:
                    refused[destination] = str(error)
                except SessionLost as loss:
                    raise SessionLost(str(loss), sent=False) from None
                else:
                    if len(self._declared) >= _REMEMBERED:
                        self._declared.clear()
                    self._declared.add(destination)
            if destination in refused:
                kind = "exchange" if isinstance(destination, Exchange) else "queue"
                what = f"message {item.message.id} to {kind} {destination.name!r}"
                results[i] = Rejected(f"RabbitMQ refused {what}: {refused[destination]}")
        return results

    async def open(self) -> None:
        """Before the first message. Raises like `publish`, and `Refused`."""
        await self._open("")

    async def _open(self, exchange: str) -> ConfirmChannel:
        # Those past the first hundred share the channel of the queues.
        lane = exchange if exchange in self._confirms or len(self._confirms) < _LANES else ""
        async with self._opening:
            confirms = self._confirms.get(lane)
            if confirms is None or isinstance(confirms.channel.error, ChannelClosed):
                confirms = self._confirms[lane] = await open_confirms(self._connection, self._news)
        return confirms

    async def probe(self) -> None:
        """Return when the server has answered on this connection; at once when it is blocked, and not expected to."""
        if self.blocked is not None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_blocked, nursery.cancel_scope)
            try:
                channel = (await self._open("")).channel
                await channel.end_fence(channel.begin_fence())
            except ChannelClosed:
                pass  # an answer, too
            nursery.cancel_scope.cancel()

    async def _cancel_when_blocked(self, scope: trio.CancelScope) -> None:
        while self.blocked is None:
            await self._news.park()
        scope.cancel()
