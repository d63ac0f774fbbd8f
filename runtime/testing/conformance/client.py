"""Plays the runtime's part towards an adapter's raw contract, and keeps the promises that the runtime makes to it."""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from ...adapter import Outgoing, Receiver, Session, Settlement
from ...delivery import ACK, STEP_OF, Delivery, Outcome, Step
from ...dial import Dialer
from ...message import Message, new_message_id
from .rig import Rig
from .waiting import bounded

#: More than any test holds of one source.
PREFETCH = 1000


def fresh(name: str = "orders") -> str:
    """A name that no test has used before, on however old a server."""
    return f"conformance-{name}-{uuid.uuid4().hex[:12]}"


class Client:
    """One run's worth of consuming and publishing: one identity, and what it holds across its sessions."""

    def __init__(self, rig: Rig) -> None:
        self.patience = rig.patience
        self.broker = rig.make_broker()
        self.identity = f"conformance-{uuid.uuid4().hex[:12]}"
        self.held: defaultdict[Any, dict[Hashable, Delivery]] = defaultdict(dict)
        #: What the adapter said is lost.
        self.lost: list[Delivery] = []
        self._dialer = Dialer()
        self._opened: set[Any] = set()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        opening = self.broker.open_session(self.identity, self._dialer)
        try:
            async with bounded(opening, "a session", self.patience) as session:
                yield session
        finally:
            if self.broker.features.lease == "session":
                # As the runtime does: lost, and forgotten once their handlers have ended.
                for held in self.held.values():
                    for delivery in held.values():
                        delivery.step(Step.LOSE)
                    held.clear()

    @asynccontextmanager
    async def open(self, session: Session, source: Any) -> AsyncIterator[Reader]:
        again = source in self._opened
        opening = session.open_source(source, self.held[source], self._lose, again=again, prefetch=PREFETCH)
        async with bounded(opening, f"source {source}", self.patience) as receiver:
            self._opened.add(source)
            yield Reader(self, session, source, receiver)

    @asynccontextmanager
    async def reading(self, source: Any) -> AsyncIterator[Reader]:
        """A session of its own with `source` open."""
        async with self.session() as session, self.open(session, source) as reader:
            yield reader

    def outgoing(self, source: Any, body: bytes, **fields: Any) -> Outgoing:
        """A message to `source`. The key is the same for all unless it is given, so that they are in one order."""
        to = self.broker.destination(source)
        fields = {"id": new_message_id(), "key": "key", **fields}
        return Outgoing(Message(body=body, destination=to.name, **fields), to)

    async def publish(self, session: Session, batch: Sequence[Outgoing]) -> None:
        """Publish and insist that all of it is confirmed."""
        with fail_after(self.patience, f"{len(batch)} publishes were not confirmed"):
            results = await session.publish(batch)
        assert list(results) == [None] * len(batch), f"a publish is confirmed by None, one for each: {results!r}"

    def _lose(self, delivery: Delivery) -> None:
        held = [held for of_source in self.held.values() for held in of_source.values()]
        assert delivery in held, f"on_lost was called for {delivery!r}, which is not held"
        delivery.step(Step.LOSE)
        self.lost.append(delivery)


class Reader:
    """An open source in the hands of a client."""

    def __init__(self, client: Client, session: Session, source: Any, receiver: Receiver) -> None:
        self.session = session
        self.receiver = receiver
        self.client = client
        self.source = source
        self._held = client.held[source]
        self._patience = client.patience
        self._fences = itertools.count(1)

    # ---- publishing ----------------------------------------------------------------------------------------------

    async def publish(self, *bodies: bytes, **fields: Any) -> list[str]:
        """Publish to the own source; the ids."""
        batch = [self.client.outgoing(self.source, body, **fields) for body in bodies]
        await self.client.publish(self.session, batch)
        return [outgoing.message.id for outgoing in batch]

    # ---- taking --------------------------------------------------------------------------------------------------

    async def receive(self, most: int = 100) -> list[Delivery]:
        """One `receive`, judged, and held."""
        taken = list(await self.receiver.receive(most))
        # Nothing is awaited from here on: like the runtime's poller, this hands over what it was given.
        assert 1 <= len(taken) <= most, f"receive({most}) returned {len(taken)} deliveries"
        for delivery in taken:
            assert delivery.receipt not in self._held, f"{delivery!r} was received while it is held"
            assert delivery.source == self.source, f"{delivery!r} is not of {self.source}"
            self._held[delivery.receipt] = delivery
            delivery.step(Step.HANDLE)
        return taken

    async def take(self, count: int = 1) -> list[Delivery]:
        """`count` deliveries, in however many reads."""
        taken: list[Delivery] = []
        with fail_after(self._patience, lambda: f"{len(taken)} of {count} messages came: {taken}"):
            while len(taken) < count:
                taken += await self.receive(count - len(taken))
        return taken

    async def take_one(self) -> Delivery:
        (delivery,) = await self.take()
        return delivery

    async def take_until_fence(self) -> list[Delivery]:
        """Everything that comes before a message that is published now: what was waiting, and nothing else."""
        (fence,) = await self.publish(b"fence %d" % next(self._fences))
        before: list[Delivery] = []
        with fail_after(self._patience, "a message that was published last did not come"):
            while True:
                for delivery in await self.receive():
                    if delivery.message.id != fence:
                        before.append(delivery)
                    else:
                        await self.settle(ACK, delivery)
                        return before

    # ---- settling ------------------------------------------------------------------------------------------------

    async def ack(self, *deliveries: Delivery) -> None:
        await self.settle(ACK, *deliveries)

    async def settle(self, outcome: Outcome, *deliveries: Delivery) -> None:
        """Settle them alike, and insist that all is taken."""
        await self.settle_batch([Settlement(delivery, outcome) for delivery in deliveries])

    async def settle_batch(self, batch: Sequence[Settlement]) -> None:
        if not batch:
            return  # the runtime never sends an empty one
        for item in batch:
            item.delivery.step(STEP_OF[type(item.outcome)])
        with fail_after(self._patience, f"{len(batch)} settlements were not taken"):
            results = await self.session.settle(batch)
        assert list(results) == [None] * len(batch), f"a settlement is taken by None, one for each: {results!r}"
        for item in batch:
            item.delivery.step(Step.SETTLE)
            # By the source of the delivery: a session settles for all of its sources.
            del self.client.held[item.delivery.source][item.delivery.receipt]


@contextmanager
def fail_after(seconds: float, what: str | Callable[[], str]) -> Iterator[None]:
    """Like Trio's, with a sentence about what did not happen."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise AssertionError(f"within {seconds:g} s, {what if isinstance(what, str) else what()}")


async def consume_all(client: Client, source: Any) -> list[Delivery]:
    """Everything that waits in `source`, acknowledged, in a session of its own."""
    async with client.reading(source) as reader:
        taken = await reader.take_until_fence()
        await reader.ack(*taken)
        return taken


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.message.body for delivery in deliveries]
