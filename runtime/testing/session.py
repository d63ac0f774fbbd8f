"""A session with a simulated broker: meets the adapter contract over a `Line`, whose faults it suffers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from runtime.adapter import Held, Outgoing, Settlement
from runtime.delivery import Delivery
from runtime.errors import SessionLost

from .server import Consumer

if TYPE_CHECKING:
    from .line import Line


class SimulatedSession:
    def __init__(self, line: Line) -> None:
        #: Why it is over.
        self.loss: str | None = None
        self._line = line
        self._receivers: dict[Any, SimulatedReceiver] = {}

    def lose(self, reason: str) -> None:
        """It is over: all that waits on it hears so."""
        self.loss = self.loss or reason
        self._line.wake()
        for receiver in self._receivers.values():
            receiver.wake()

    def lose_leases(self) -> None:
        for receiver in self._receivers.values():
            receiver.lose_leases()

    @asynccontextmanager
    async def open_source(
        self, source: Any, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[SimulatedReceiver]:
        await self._line.cross(self)
        consumer = self._line.server.open(source, held)
        receiver = self._receivers[source] = SimulatedReceiver(self, self._line, source, consumer, on_lost)
        self._line.record.opened(self._line.name, source)
        try:
            yield receiver
        finally:
            del self._receivers[source]
            receiver.close()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        results: list[Exception | None] = []
        self._line.takes_ack(self)
        await self._line.ask(self, lambda: results.extend(map(self._settle, batch)))
        return results

    def _settle(self, item: Settlement) -> Exception | None:
        line, source = self._line, item.delivery.source
        if source not in self._receivers and line.broker.features.lease == "session":
            return SessionLost("its source is closed, so it will be delivered again")
        return line.server.settle(line.server.declare(source), item.delivery, item.outcome, line.name)

    async def writable(self, paused: Callable[[str], None]) -> None:
        pass  # no fault of a line takes messages away from publishers alone

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        results: list[Exception | None] = []
        await self._line.ask(self, lambda: results.extend(map(self._publish, batch)))
        self._line.confirms(self)
        return results

    def _publish(self, outgoing: Outgoing) -> Exception | None:
        return self._line.server.publish(outgoing.message, outgoing.source, self._line.name)

    async def probe(self) -> None:
        await self._line.cross(self)


class SimulatedReceiver:
    def __init__(
        self,
        session: SimulatedSession,
        line: Line,
        source: Any,
        consumer: Consumer,
        on_lost: Callable[[Delivery], None],
    ) -> None:
        self.consumer = consumer
        self._session = session
        self._line = line
        self._source = source
        self._on_lost = on_lost

    @property
    def lag(self) -> int:
        return self.consumer.waiting

    async def receive(self, most: int) -> Sequence[Delivery]:
        while True:
            await self._line.cross(self._session)
            deliveries = self._line.server.take(self._source, self.consumer, most, self._line.name)
            if deliveries:
                return deliveries
            with trio.move_on_at(self.consumer.next_due()):
                await self.consumer.arrived.park()

    def wake(self) -> None:
        self.consumer.arrived.unpark_all()

    def lose_leases(self) -> None:
        for delivery in self._line.server.give_back(self.consumer):
            self._on_lost(delivery)

    def close(self) -> None:
        line = self._line
        if self.consumer.leases and self._session.loss is None and not line.has_fault:
            names = ", ".join(lease.delivery.message.id for lease in self.consumer.leases.values())
            line.record.broke(f"delivered and never settled: {names}")
        if line.broker.features.lease == "session":
            line.tell(lambda: line.server.close(self.consumer))
