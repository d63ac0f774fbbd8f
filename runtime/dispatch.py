"""From received to running: one task per delivery, a turn for each, and nobody ever without an owner."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import msgspec
import trio

from .delivery import Ack, Delivery, Outcome, Reject, Release, State, Step
from .endpoint import Endpoint, Work
from .intake import Intake
from .settlement import Settler
from .turns import Turns

logger = logging.getLogger("runtime.dispatch")

#: What becomes of a delivery whose handler was cut off by a cancel.
INTERRUPTED = Release()
#: What becomes of a delivery that was never started.
UNREAD = Release(counted=False)


@dataclass(slots=True)
class Counters:
    """What has become of one subscription's deliveries since the run started."""

    received: int = 0
    acked: int = 0
    released: int = 0
    rejected: int = 0
    lost: int = 0
    cancelled: int = 0


class Dispatch:
    """One subscription's deliveries, from the poller's hands to the settler's.

    Invariants: `held` has every delivery that was received and is not settled, and at most `prefetch`; each has one
    owner task until its outcome is with the settler; at most `concurrency` of the owners run a handler.
    """

    def __init__(
        self,
        handler: str,
        endpoint: Endpoint,
        settler: Settler,
        intake: Intake,
        *,
        concurrency: int,
        prefetch: int,
        ordered: bool,
        cancel_lost: bool = False,
    ) -> None:
        self.handler = handler
        self.concurrency = concurrency
        self.prefetch = prefetch
        self.counters = Counters()
        self.held: dict[Hashable, Delivery] = {}
        #: The deliveries whose handlers run now, and since when (Trio's clock).
        self.running: dict[Delivery, float] = {}
        self._endpoint = endpoint
        self._settler = settler
        self._intake = intake
        self._ordered = ordered
        #: By message id: handlers that run although their delivery is lost, and when they will have ended.
        self._strays: dict[str, trio.Event] = {}
        #: One for each running handler where the loss of a lease cancels it, see `Features.lost`.
        self._scopes: dict[Delivery, trio.CancelScope] | None = {} if cancel_lost else None
        self._turns: Turns[_Ticket] = Turns(concurrency)
        self._nursery: trio.Nursery | None = None
        self._room = trio.lowlevel.ParkingLot()

    def open(self, handlers: trio.Nursery) -> None:
        """Owners will be children of `handlers`."""
        self._nursery = handlers

    async def room(self) -> int:
        """Wait until a read is worth it, and return how much may be received.

        It is worth it when half of what may be taken ahead is free: reading for every single slot would cost a round
        trip a message. The other half is there to start on meanwhile.
        """
        worth = (self.prefetch - self.concurrency) // 2 + 1
        while (free := self.prefetch - len(self.held)) < worth:
            await self._room.park()
        return free

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Give each delivery an owner. Synchronous: between the broker's hands and its owner's nothing is awaited."""
        assert self._nursery is not None
        assert len(self.held) + len(deliveries) <= self.prefetch, "the adapter returned more than was asked for"
        self.counters.received += len(deliveries)
        for delivery in deliveries:
            assert delivery.receipt not in self.held, f"{delivery!r} was received while it is held"
            self.held[delivery.receipt] = delivery
            if self._intake.is_closing:
                # This `receive` had its answer already when the intake closed, and nothing is started any more.
                self._settler.put(delivery, UNREAD, self._done)
                continue
            ticket = _Ticket()
            if self._turns.arrive(ticket, self._lane(delivery)):
                ticket.granted = True
            self._nursery.start_soon(self._own, delivery, ticket, name=f"{self.handler} {delivery.message.id}")

    def give_back(self) -> None:
        """Release what was received and not started; what runs, runs on. The first act of a drain."""
        for ticket in self._turns.close():
            ticket.called()

    def lose(self, delivery: Delivery) -> None:
        """The lease of `delivery` is gone. It keeps its slot and lane until its handler ends, so that the same message,
        delivered again, does not run beside itself."""
        if delivery.state is not State.SETTLED:
            delivery.step(Step.LOSE)
            if delivery in self.running:
                self._strays.setdefault(delivery.message.id, trio.Event())
            if self._scopes is not None and delivery in self._scopes:
                self._scopes[delivery].cancel()

    def lose_all(self) -> None:
        for delivery in self.held.values():
            self.lose(delivery)

    # ---- the owner -----------------------------------------------------------------------------------------------

    async def _own(self, delivery: Delivery, ticket: _Ticket) -> None:
        outcome: Outcome = UNREAD
        try:
            if not ticket.granted:
                await ticket.call()
            # One whose turn came by the cancel of another, before its own was heard, does not begin.
            await trio.lowlevel.checkpoint_if_cancelled()
            may_begin = ticket.granted and (not self._strays or await self._outwait_stray(delivery))
            if may_begin and delivery.state is State.RECEIVED:
                delivery.step(Step.HANDLE)
                self.running[delivery] = trio.current_time()
                outcome = INTERRUPTED
                outcome = await (self._handle if self._scopes is None else self._handle_while_held)(delivery)
        finally:
            self.counters.cancelled += outcome is INTERRUPTED
            self.running.pop(delivery, None)
            if delivery.state is State.LOST and (ended := self._strays.pop(delivery.message.id, None)) is not None:
                ended.set()
            if ticket.granted:
                successor = self._turns.leave(self._lane(delivery))
                if successor is not None:
                    successor.granted = True
                    successor.called()
            self._settler.put(delivery, outcome, self._done)

    async def _outwait_stray(self, delivery: Delivery) -> bool:
        """A message that is delivered again while its lost self is still being handled waits for that: it is not run
        beside itself. It has its turn already; so has the other. Returns whether it may begin then: not in a drain."""
        if (ended := self._strays.get(delivery.message.id)) is None:
            return True
        await ended.wait()
        return not self._intake.is_closing

    async def _handle_while_held(self, delivery: Delivery) -> Outcome:
        assert self._scopes is not None
        with trio.CancelScope() as scope:
            self._scopes[delivery] = scope
            try:
                return await self._handle(delivery)
            finally:
                del self._scopes[delivery]
        return UNREAD  # lost, so nothing is sent

    async def _handle(self, delivery: Delivery) -> Outcome:
        outcome = await self._endpoint(Work((delivery,)))
        # Where order is promised a failed message is tried again here, in its lane: released, it would come back behind
        # the next message with its key. A drain ends the waiting.
        while self._ordered and isinstance(outcome, Release) and not self._intake.is_closing:
            with trio.move_on_after(outcome.after):
                await self._intake.closing()
                break
            if delivery.state is State.LOST:
                break
            again = delivery.message.attempt + outcome.counted
            delivery.message = msgspec.structs.replace(delivery.message, attempt=again)
            outcome = await self._endpoint(Work((delivery,)))
        return outcome

    def _done(self, delivery: Delivery, outcome: Outcome) -> None:
        """The settler's last word: settled, or lost."""
        del self.held[delivery.receipt]
        match outcome:
            case _ if delivery.state is State.LOST:
                self.counters.lost += 1
            case Ack():
                self.counters.acked += 1
            case Release():
                self.counters.released += 1
            case Reject(reason):
                self.counters.rejected += 1
                logger.error("%s: message %s was set aside: %s", self.handler, delivery.message.id, reason)
        self._room.unpark()

    def _lane(self, delivery: Delivery) -> str | None:
        return delivery.message.key if self._ordered else None


class _Ticket:
    """What an owner waits with for its turn. Called without being granted, it is to give its delivery back."""

    __slots__ = ("_called", "granted")

    def __init__(self) -> None:
        self.granted = False
        self._called: trio.Event | None = None

    async def call(self) -> None:
        # Between the task's start and its first step the turn may have come, or gone.
        if self._called is None:
            self._called = trio.Event()
        await self._called.wait()

    def called(self) -> None:
        if self._called is None:
            self._called = trio.Event()
        self._called.set()
