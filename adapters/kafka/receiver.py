"""An open subscription: what its group's consumer sent across, and what comes back to it by a release."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import confluent_kafka
import msgspec
import trio

from runtime.delivery import Delivery, Release
from runtime.message import Message

from . import wire
from .inlet import Inlet
from .lease import Lease, Place, Receipt

if TYPE_CHECKING:
    from .group import Group


class TopicReceiver:
    """`receive` takes from a buffer that is filled without it, so it waits for nothing but a record's arrival."""

    def __init__(self, group: Group, inlet: Inlet, on_lost: Callable[[Delivery], None]) -> None:
        self.source = inlet.source
        self.inlet = inlet
        self.on_lost = on_lost
        #: The group's consumer was assigned something, if only of other topics; something of these topics.
        self.joined, self.served = trio.Event(), trio.Event()
        self._group = group
        self._error: Exception | None = None
        self._buffer: deque[tuple[confluent_kafka.Message, Lease]] = deque()
        # (due by Trio's clock, tie-breaker, message, receipt): a heap of what was released.
        self._released: list[tuple[float, int, Message, Receipt]] = []
        self._ties = itertools.count()
        self._arrived = trio.lowlevel.ParkingLot()
        #: The poller is gone for good: a drain.
        self._left = False

    @property
    def lag(self) -> int | None:
        """Of the partitions that are this process's."""
        known = [lag for place, lag in self._group.consumer.health.lags.items() if self._is_ours(place)]
        return sum(known) + len(self._buffer) if known else None

    @property
    def assignment(self) -> str:
        """The partitions that are this process's now."""
        return ", ".join(str(place) for place in sorted(self._group.leases) if self._is_ours(place))

    def _is_ours(self, place: Place) -> bool:
        return place in self._group.leases and place.topic in self.source.names

    async def receive(self, most: int) -> Sequence[Delivery]:
        await trio.lowlevel.checkpoint()
        try:
            while True:
                if self._error is not None:
                    raise self._error
                if taken := self._take(most):
                    return taken
                with trio.move_on_at(self._released[0][0] if self._released else float("inf")):
                    await self._arrived.park()
        except trio.Cancelled:
            self.leave()
            raise

    def _take(self, most: int) -> list[Delivery]:
        taken: list[Delivery] = []
        now = trio.current_time()
        while self._released and len(taken) < most and self._released[0][0] <= now:
            _, _, message, receipt = heapq.heappop(self._released)
            if receipt.lease.is_open:
                taken.append(self._deliver(message, receipt.lease, receipt.offset))
        was_waiting = self.inlet.waiting
        while self._buffer and len(taken) < most:
            raw, lease = self._buffer.popleft()
            self.inlet.taken += 1
            if lease.is_open:
                offset = raw.offset()
                assert offset is not None
                lease.offsets.take(offset)
                taken.append(self._deliver(wire.message(lease.place.topic, raw), lease, offset))
        if self.inlet.full_since is not None and was_waiting != self.inlet.waiting:
            self._group.consumer.wake()
        return taken

    def _deliver(self, message: Message, lease: Lease, offset: int) -> Delivery:
        receipt = Receipt(lease, offset)
        delivery = Delivery(message, receipt, self.source)
        lease.running[receipt] = delivery
        return delivery

    # ---- for the group -------------------------------------------------------------------------------------------

    def put(self, messages: Sequence[confluent_kafka.Message]) -> None:
        if self._left:
            self.inlet.taken += len(messages)
            return
        for raw in messages:
            lease = self._group.leases.get(Place(raw.topic() or "", raw.partition() or 0))
            if lease is None:
                self.inlet.taken += 1
            else:
                self._buffer.append((raw, lease))
        self._arrived.unpark()

    def release(self, delivery: Delivery, outcome: Release) -> None:
        """Hand it out again when it is due, to this process: Kafka itself has nothing between handled and not."""
        receipt = delivery.receipt
        assert isinstance(receipt, Receipt)
        del receipt.lease.running[receipt]
        message = msgspec.structs.replace(delivery.message, attempt=delivery.message.attempt + outcome.counted)
        due = trio.current_time() + outcome.after
        heapq.heappush(self._released, (due, next(self._ties), message, receipt))
        self._arrived.unpark()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.joined.set()
        self.served.set()
        self._arrived.unpark_all()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Take nothing more. What waits was never handed out, so its offsets stay uncommitted."""
        self._left = True
        self.inlet.taken += len(self._buffer)
        self._buffer.clear()
        self._released.clear()
