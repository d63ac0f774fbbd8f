"""One broker's server, as its `Features` and its routing rule describe it. Synchronous; lines and sessions wait, not this.

The log with groups that the embedded broker uses serves here too: a queue is a log with one group.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from adapters.memory.server import Entry, Group, MemoryServer
from runtime.adapter import Held
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
    """What the broker knows of one subscription: the groups that it reads, and what it holds."""

    groups: Mapping[str, Group]
    leases: dict[Hashable, Lease] = field(default_factory=dict)
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
        self._consumers: dict[Any, Consumer] = {}
        self._receipts = itertools.count(1)
        self._settled: set[Hashable] = set()
        #: All that was taken, with the name of its destination, in order.
        self.published: list[tuple[str, Message]] = []
        #: The next message that is handed out is handed out a second time.
        self.duplicate_next = False

    def publish(self, message: Message, destination: Any, where: str) -> Unroutable | None:
        """Give `message` to whom it belongs; whoever publishes to a place declares it, as the adapters do."""
        logs = self._broker.route(message, destination, tuple(self._consumers))
        self._record.published(where, message, ", ".join(logs) or "nowhere")
        if not logs:
            return Unroutable(f"nothing would receive message {message.id} to {destination}")
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

    def declare(self, source: Any) -> Consumer:
        """The consumer that reads `source`, with groups created where they are missing."""
        if source not in self._consumers:
            reading = self._broker.reading(source)
            groups = {log: self._logs.group(log, reading.group, reading.start) for log in reading.logs}
            self._consumers[source] = Consumer(groups)
        return self._consumers[source]

    def is_settled(self, sources: Collection[Any]) -> bool:
        """Whether everything that `sources` read has been settled."""
        return not any(map(self._unsettled, sources))

    def _unsettled(self, source: Any) -> int:
        if source in self._consumers:
            return self._consumers[source].unsettled
        # Not opened yet: a new group will begin with what there is.
        reading = self._broker.reading(source)
        return sum(len(self._logs.messages(log)) for log in reading.logs) if reading.start == "beginning" else 0

    # ---- for one consumer's session ------------------------------------------------------------------------------

    def open(self, source: Any, held: Held) -> Consumer:
        """The consumer is back: what it was handed out and does not hold is handed out again."""
        consumer = self.declare(source)
        for receipt in [receipt for receipt in consumer.leases if receipt not in held]:
            self._return(consumer, consumer.leases.pop(receipt))
        return consumer

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

    def settle(self, consumer: Consumer, delivery: Delivery, outcome: Outcome, where: str) -> SessionLost | None:
        lease = consumer.leases.pop(delivery.receipt, None)
        if lease is None:
            if delivery.receipt in self._settled:
                self._record.broke(f"message {delivery.message.id} was settled twice")
            return SessionLost("its lease is gone, so it will be delivered again")
        self._settled.add(delivery.receipt)
        self._record.settled(where, delivery, outcome, lease.since)
        match outcome:
            case Release(after, counted):
                lease.entry.attempts -= not counted
                if after > 0:
                    lease.group.delay(lease.entry, trio.current_time() + after)
                else:
                    lease.group.put_back([lease.entry])
                self._wake(lease.log)
            case Reject(reason):
                headers = {
                    **delivery.message.headers,
                    "rejected-reason": reason,
                    "rejected-from": str(delivery.source),
                }
                self.append(msgspec.structs.replace(delivery.message, headers=headers), f"{lease.log}.rejected", where)
        return None

    def give_back(self, consumer: Consumer) -> list[Delivery]:
        """All that the consumer holds goes back; returns it."""
        lost = list(consumer.leases.values())
        consumer.leases.clear()
        for lease in lost:
            self._return(consumer, lease)
        return [lease.delivery for lease in lost]

    def close(self, consumer: Consumer) -> None:
        """The session is over, and with it its leases."""
        self.give_back(consumer)

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
