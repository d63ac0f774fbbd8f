"""One broker's server, as its `Features` and its routing rule describe it. Synchronous; lines and sessions wait, not this.

The log with groups that the embedded broker uses serves here too: a queue is a log with one group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from adapters.memory.server import Entry, Group, MemoryServer
from runtime.adapter import Held, rejected_headers
from runtime.broker import Broker
from runtime.delivery import Delivery, Outcome, Reject, Release
from runtime.errors import SessionLost, Unroutable
from runtime.message import Message

from .record import Record


@dataclass(slots=True)
class Lease:
    """One message that was handed out and is not settled."""

    delivery: Delivery
    log: str
    group: Group
    entry: Entry
    #: When it was handed out, since the world began.
    since: float


@dataclass(slots=True)
class Consumer:
    """What the broker knows of one subscription: the groups that it reads, and what it holds. Outlives its sessions."""

    groups: Mapping[str, Group]
    leases: dict[Hashable, Lease] = field(default_factory=dict)
    #: What was acknowledged in this session, where a session's end takes back what is behind something unsettled.
    acked: list[Lease] = field(default_factory=list)
    #: How its open source hears that a lease is gone; None while it is closed.
    on_lost: Callable[[Delivery], None] | None = None
    #: Where its receiver waits for messages.
    arrived: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    @property
    def waiting(self) -> int:
        return sum(map(len, self.groups.values()))

    @property
    def unsettled(self) -> int:
        return len(self.leases) + self.waiting

    def next_due(self) -> float:
        """When the first delayed message is due, by Trio's clock."""
        return min(group.next_due() for group in self.groups.values())


class SimulatedServer:
    def __init__(self, broker: Broker[Any], record: Record) -> None:
        self._broker = broker
        self._record = record
        self._logs = MemoryServer(retain=None)
        #: By line and source: two brokers of one application may read the same source in the same group.
        self._consumers: dict[tuple[str, Any], Consumer] = {}
        #: Every source that was opened, for the routing rule. A dict for its order.
        self._declared: dict[Any, None] = {}
        self._receipts = itertools.count(1)
        self._settled: set[Hashable] = set()
        #: The receipts of the settlements whose answer has reached the runtime.
        self.answered: set[Hashable] = set()
        #: All that was taken, with the name of its destination, in order.
        self.published: list[tuple[str, Message]] = []
        #: The next message that is handed out is handed out a second time.
        self.duplicate_next = False

    def publish(self, message: Message, destination: Any, where: str) -> Unroutable | None:
        """Give `message` to whom it belongs."""
        try:
            logs = self._broker.route(message, destination, self._declared.keys())
        except Unroutable as error:
            self._record.published(where, message, "nowhere: refused")
            return error
        self._record.published(where, message, ", ".join(logs) or "nowhere")
        self._put(message, destination.name, logs)
        return None

    def append(self, message: Message, log: str, where: str) -> None:
        """Put `message` into one log, past all routing."""
        self._record.published(where, message, log)
        self._put(message, log, (log,))

    def _put(self, message: Message, destination: str, logs: Sequence[str]) -> None:
        self.published.append((destination, message))
        for log in logs:
            self._logs.publish(message, log)
        self._wake(*logs)

    def is_settled(self, where: str, sources: Collection[Any], *, stopping: bool) -> bool:
        """Whether everything that the line `where` reads from `sources` has been settled.

        `stopping` says that nothing more is taken, so what only waits does not count.
        """
        return not any(self._unsettled(where, source, stopping) for source in sources)

    def _unsettled(self, where: str, source: Any, stopping: bool) -> int:
        if (consumer := self._consumers.get((where, source))) is not None:
            return len(consumer.leases) if stopping else consumer.unsettled
        if stopping:
            return 0
        # Not opened yet: a new group will begin with what there is.
        reading = self._broker.reading(source)
        return sum(len(self._logs.messages(log)) for log in reading.logs) if reading.start == "beginning" else 0

    # ---- for one consumer's session ------------------------------------------------------------------------------

    def open(self, where: str, source: Any, held: Held, on_lost: Callable[[Delivery], None]) -> Consumer:
        """The consumer is here, or back: what it was handed out and does not hold is handed out again, and it hears of
        what it holds and has no lease for."""
        consumer = self._consumers.get((where, source))
        if consumer is None:
            consumer = self._consumers[where, source] = self._declare(source)
        for receipt in [receipt for receipt in consumer.leases if receipt not in held]:
            self._return(consumer, consumer.leases.pop(receipt))
        for receipt, delivery in list(held.items()):  # on_lost may take it out
            if receipt not in consumer.leases and receipt not in self._settled:
                on_lost(delivery)
        consumer.on_lost = on_lost
        return consumer

    def _declare(self, source: Any) -> Consumer:
        """Whoever reads a source declares it, with groups created where they are missing, as the adapters do."""
        self._declared[source] = None
        reading = self._broker.reading(source)
        return Consumer({log: self._logs.group(log, reading.group, reading.start) for log in reading.logs})

    def take(self, source: Any, consumer: Consumer, most: int, where: str) -> list[Delivery]:
        """Hand out up to `most` messages."""
        deliveries = []
        for log, group, entry in _take(consumer, most):
            if self.duplicate_next:
                self.duplicate_next = False
                self._record.note(where, f"message {entry.message.id} duplicated")
                self._logs.add(entry.message, group)
            deliveries.append(self._lease(source, consumer, log, group, entry, where))
        return deliveries

    def settle(self, delivery: Delivery, outcome: Outcome, where: str) -> SessionLost | None:
        """The session that brought it may be over: its lease alone decides."""
        consumer = self._consumers[where, delivery.source]
        lease = consumer.leases.pop(delivery.receipt, None)
        if lease is None:
            if delivery.receipt in self._settled:
                if self._broker.features.lease == "broker" and delivery.receipt not in self.answered:
                    return None  # sent again, because nobody heard that it was done
                self._record.broke(f"message {delivery.message.id} was settled twice")
            return SessionLost("its lease is gone, so it will be delivered again")
        self._settled.add(delivery.receipt)
        self._record.settled(where, delivery, outcome, lease.since)
        if self._broker.features.acks == "prefix" and not isinstance(outcome, Release):
            consumer.acked.append(lease)
        match outcome:
            case Release(after, counted):
                lease.entry.attempts -= not counted
                if after > 0:
                    lease.group.delay(lease.entry, trio.current_time() + after)
                else:
                    lease.group.put_back([lease.entry])
                self._wake(lease.log)
            case Reject(reason):
                headers = rejected_headers(delivery.message, reason, str(delivery.source))
                self.append(msgspec.structs.replace(delivery.message, headers=headers), f"{lease.log}.rejected", where)
        return None

    def expire(self, where: str) -> None:
        """Every lease that the line `where` holds runs out, and who is there to hear it hears it."""
        for (line, _), consumer in self._consumers.items():
            if line == where:
                on_lost = consumer.on_lost
                for delivery in self.give_back(consumer):
                    if on_lost is not None:
                        on_lost(delivery)

    def end_session(self, consumer: Consumer) -> None:
        """Leases go with it; so does what waits for its redelivery, where it waited in the process that released it, and
        acks of what is behind it, where acks are a prefix."""
        lowest = {log: group.lowest() for log, group in consumer.groups.items()}
        for lease in consumer.leases.values():
            lowest[lease.log] = min(lowest[lease.log], lease.entry.sequence)
        again = [lease for lease in consumer.acked if lease.entry.sequence > lowest[lease.log]]
        consumer.acked.clear()
        self.give_back(consumer)
        for lease in again:
            self._return(consumer, lease)
        if self._broker.features.attempts == "session":
            for group in consumer.groups.values():
                for entry in group.hurry():
                    entry.attempts = 0

    def give_back(self, consumer: Consumer) -> list[Delivery]:
        """All that the consumer was handed out and has not settled goes back; returns it."""
        lost = list(consumer.leases.values())
        consumer.leases.clear()
        for lease in lost:
            self._return(consumer, lease)
        return [lease.delivery for lease in lost]

    def _return(self, consumer: Consumer, lease: Lease) -> None:
        if self._broker.features.attempts == "session":
            lease.entry.attempts = 0
        lease.group.put_back([lease.entry])
        self._wake(lease.log)

    def _wake(self, *logs: str) -> None:
        for consumer in self._consumers.values():
            if any(log in consumer.groups for log in logs):
                consumer.arrived.unpark_all()

    def _lease(self, source: Any, consumer: Consumer, log: str, group: Group, entry: Entry, where: str) -> Delivery:
        message = entry.message
        if entry.attempts != message.attempt:
            message = msgspec.structs.replace(message, attempt=entry.attempts)
        # Handed out again it is another delivery: one that was lost may still be running.
        delivery = Delivery(message, next(self._receipts), source)
        consumer.leases[delivery.receipt] = Lease(delivery, log, group, entry, self._record.now())
        self._record.delivered(where, delivery)
        return delivery


def _take(consumer: Consumer, most: int) -> Iterator[tuple[str, Group, Entry]]:
    now = trio.current_time()
    for log, group in consumer.groups.items():
        entries = group.take(most, now)
        most -= len(entries)
        for entry in entries:
            yield log, group, entry
