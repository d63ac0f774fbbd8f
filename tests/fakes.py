"""A broker whose faults a test decides: it can be out of reach, refuse, fall silent, lose sessions and confirms.

It meets the adapter contract and does no I/O, so on Trio's mock clock an hour of trouble takes a millisecond.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import trio

from runtime import Broker, Features, Message, SessionLost
from runtime.adapter import Held, Outgoing, Settlement
from runtime.delivery import Delivery, Outcome, Release
from runtime.dial import Dialer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a `FakeBroker` is read from and published to."""

    name: str

    def __str__(self) -> str:
        return self.name


class FakeBroker(Broker[Place]):
    """The declaration and its server in one. Leases are the session's; see `LastingBroker` for the other kind."""

    features: ClassVar[Features] = Features(
        ordering="process", lease="session", attempts="session", groups=False, unroutable=True
    )
    schemes: ClassVar[tuple[str, ...]] = ("fake",)

    def __init__(self, name: str = "fake", *, publish_limit: float = 30.0, probe_interval: float = 5.0) -> None:
        super().__init__("fake://here", name=name, publish_limit=publish_limit, probe_interval=probe_interval)
        #: Raised by every attempt to connect.
        self.unreachable: Exception | None = None
        #: Raised by every attempt to open the source of that name.
        self.broken: dict[str, Exception] = {}
        #: Calls of these names ("open", "receive", "settle", "writable", "publish", "probe") do not return while they are here.
        self.stuck: set[str] = set()
        #: What a probe answers.
        self.complaint: str | None = None
        #: The next publishes raise these, one each.
        self.publish_failures: deque[SessionLost] = deque()
        #: What the broker says to one message.
        self.verdict: Callable[[Outgoing], Exception | None] = lambda outgoing: None
        #: What has happened, and when: (what, Trio's clock).
        self.events: list[tuple[str, float]] = []
        self.settlements: list[tuple[str, Outcome]] = []
        self.published: list[Message] = []
        self.queues: defaultdict[str, deque[Message]] = defaultdict(deque)
        self.sessions: list[FakeSession] = []
        self.receipts = itertools.count()
        self.leased: dict[Hashable, tuple[FakeSession, str, Message]] = {}
        self.news = trio.lowlevel.ParkingLot()

    def source(self, spec: Place | str) -> Place:
        return Place(spec) if isinstance(spec, str) else spec

    @asynccontextmanager
    async def open_session(self, identity: str, dialer: Dialer) -> AsyncIterator[FakeSession]:
        self.note("connect")
        await trio.lowlevel.checkpoint()
        while "open" in self.stuck:
            await self.news.park()
        if self.unreachable is not None:
            raise self.unreachable
        session = FakeSession(self)
        self.sessions.append(session)
        try:
            yield session
        finally:
            self.note("disconnect")
            session.lose("it was closed")
            session.return_leases()

    def put(self, *bodies: str, to: str = "orders", key: str | None = None) -> None:
        """Somebody else publishes; the id of each message is its body."""
        self.queues[to] += [Message(body=body.encode(), id=body, destination=to, key=key) for body in bodies]
        self.news.unpark_all()

    def free(self, *operations: str) -> None:
        """What was stuck goes on."""
        self.stuck -= set(operations)
        self.news.unpark_all()

    def lose(self, reason: str = "the wire was cut") -> None:
        """Every session is lost."""
        for session in self.sessions:
            session.lose(reason)

    def note(self, what: str) -> None:
        self.events.append((what, trio.current_time()))

    def times(self, what: str) -> list[float]:
        return [time for event, time in self.events if event == what]

    def settled(self, kind: type[Outcome]) -> list[str]:
        """The ids of the messages that were settled so."""
        return [id for id, outcome in self.settlements if isinstance(outcome, kind)]


class PartitionedBroker(FakeBroker):
    """What is lost may be another process's at once, so its handler is cancelled."""

    features: ClassVar[Features] = Features(
        ordering="process", lease="session", attempts="session", groups=False, unroutable=True, lost="cancelled"
    )


class LastingBroker(FakeBroker):
    """Leases outlive the session: nothing is delivered again, everything can be settled on the next session."""

    features: ClassVar[Features] = Features(
        ordering="none", lease="broker", attempts="broker", groups=False, unroutable=True
    )


class FakeSession:
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._loss: str | None = None

    def lose(self, reason: str) -> None:
        self._loss = self._loss or reason
        self._broker.news.unpark_all()

    def return_leases(self) -> None:
        if self._broker.features.lease == "session":
            for receipt, (session, place, message) in reversed(list(self._broker.leased.items())):
                if session is self:
                    del self._broker.leased[receipt]
                    self._broker.queues[place].appendleft(message)

    @asynccontextmanager
    async def open_source(
        self, source: Place, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[FakeReceiver]:
        self._broker.note(f"open {source}")
        await self._pass("open source")
        if (error := self._broker.broken.get(source.name)) is not None:
            raise error
        try:
            yield FakeReceiver(self, source)
        finally:
            self._broker.note(f"close {source}")

    async def receive(self, source: Place, most: int) -> Sequence[Delivery]:
        queue = self._broker.queues[source.name]
        await self._pass("receive")
        while not queue:
            await self._broker.news.park()
            await self._pass("receive")
        return [self._deliver(queue.popleft(), source) for _ in range(min(most, len(queue)))]

    def _deliver(self, message: Message, source: Place) -> Delivery:
        receipt = next(self._broker.receipts)
        self._broker.leased[receipt] = self, source.name, message
        return Delivery(message, receipt, source)

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        await self._pass("settle")
        for item in batch:
            self._broker.settlements.append((item.delivery.message.id, item.outcome))
            _, place, message = self._broker.leased.pop(item.delivery.receipt)
            if isinstance(item.outcome, Release):
                self._broker.queues[place].append(message)
        self._broker.news.unpark_all()
        return [None] * len(batch)

    async def writable(self, paused: Callable[[str], None]) -> None:
        if "writable" in self._broker.stuck:
            paused("it is out of memory")
            await self._pass("writable")

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        self._broker.note("publish")
        await self._pass("publish")
        if self._broker.publish_failures:
            raise self._broker.publish_failures.popleft()
        results = [self._broker.verdict(outgoing) for outgoing in batch]
        self._broker.published += [o.message for o, error in zip(batch, results, strict=True) if error is None]
        return results

    async def probe(self) -> str | None:
        self._broker.note("probe")
        await self._pass("probe")
        return self._broker.complaint

    async def _pass(self, operation: str) -> None:
        await trio.lowlevel.checkpoint()
        while operation in self._broker.stuck and self._loss is None:
            await self._broker.news.park()
        if self._loss is not None:
            raise SessionLost(self._loss)


class FakeReceiver:
    def __init__(self, session: FakeSession, source: Place) -> None:
        self.lag: int | None = None
        self._session = session
        self._source = source

    async def receive(self, most: int) -> Sequence[Delivery]:
        return await self._session.receive(self._source, most)
