"""A session with a simulated broker: meets the adapter contract over a `Line`, whose faults it suffers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from runtime.adapter import Held, Outgoing, Settlement
from runtime.delivery import Delivery

from .server import Consumer

if TYPE_CHECKING:
    from .line import Line


class SimulatedSession:
    def __init__(self, line: Line) -> None:
        #: Why it is over.
        self.loss: str | None = None
        self._line = line
        self._receivers: list[SimulatedReceiver] = []

    def lose(self, reason: str) -> None:
        """It is over: all that waits on it hears so."""
        self.loss = self.loss or reason
        self._line.wake()
        for receiver in self._receivers:
            receiver.wake()

    @asynccontextmanager
    async def open_source(
        self, source: Any, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[SimulatedReceiver]:
        await self._line.cross(self)
        consumer = self._line.server.open(self._line.name, source, held, on_lost)
        receiver = SimulatedReceiver(self, self._line, source, consumer)
        self._receivers.append(receiver)
        self._line.record.opened(self._line.name, source)
        try:
            yield receiver
        finally:
            self._receivers.remove(receiver)
            receiver.close()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        results: list[Exception | None] = []
        self._line.takes_ack(self)
        await self._line.ask(self, lambda: results.extend(map(self._settle, batch)))
        self._line.server.answered.update(item.delivery.receipt for item in batch)
        return results

    def _settle(self, item: Settlement) -> Exception | None:
        return self._line.server.settle(item.delivery, item.outcome, self._line.name)

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
    def __init__(self, session: SimulatedSession, line: Line, source: Any, consumer: Consumer) -> None:
        self.consumer = consumer
        self._session = session
        self._line = line
        self._source = source

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

    def close(self) -> None:
        line = self._line
        self.consumer.on_lost = None
        if self.consumer.leases and self._session.loss is None and not line.has_fault:
            names = ", ".join(lease.delivery.message.id for lease in self.consumer.leases.values())
            line.record.broke(f"delivered and never settled: {names}")
        if line.broker.features.lease == "session":
            line.tell(lambda: line.server.end_session(self.consumer))
