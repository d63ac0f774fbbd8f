"""Load on one broker while a fault happens to it, told to a recorder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from runtime import Broker, BrokerUnavailable, LinkState, Message, OutcomeUnknown, Runtime

from .recorder import Recorder
from .waiting import until


class Traffic:
    """Publishers that never give up, and the subscription that handles what they send."""

    def __init__(self, broker: Broker[Any], recorder: Recorder, total: int) -> None:
        self.app = Runtime(broker)
        self._broker = broker
        self.total = total
        self.confirmed = 0
        self._recorder = recorder
        self._handled: set[int] = set()
        self._grown = trio.lowlevel.ParkingLot()

    @property
    def unsettled(self) -> int:
        """Messages that the broker may deliver again if it loses us now."""
        return sum(s.unsettled for broker in self.app.status().brokers for s in broker.subscriptions)

    @property
    def at_risk(self) -> int:
        """Messages that the broker may deliver again if it loses us now.

        Where a lease ends with its session an ack may be lost on the wire when we have forgotten its message; then it
        is all that the broker lets us have unsettled.
        """
        if self._broker.features.lease == "broker":
            return self.unsettled
        return sum(s.prefetch for broker in self.app.status().brokers for s in broker.subscriptions)

    @property
    def state(self) -> LinkState:
        return self.app.status().brokers[0].state

    @property
    def sessions(self) -> int:
        return self.app.status().brokers[0].sessions

    async def reaches(self, share: float) -> None:
        """Wait until that share of the messages is confirmed."""
        while self.confirmed < share * self.total:
            await self._grown.park()

    async def ends(self, within: float = 30) -> None:
        """Wait until all messages are confirmed and handled, and nothing is unsettled."""
        await until(lambda: self.confirmed == self.total, within=within, why=lambda: (self.confirmed, self.total))
        await until(
            lambda: len(self._handled) == self.total and not self.unsettled,
            within=within,
            why=lambda: (len(self._handled), self.unsettled, self.total, self.app.status()),
        )

    def saw(self, number: int, key: str | None) -> None:
        self._handled.add(number)
        self._recorder.handled(number, key)

    async def publish(self, source: Any, first: int, step: int, pause: float) -> None:
        """Every `step`-th number from `first`, under one key, each again until it is confirmed, and a pause after it."""
        for number in range(first, self.total, step):
            while True:
                try:
                    await self._broker.publish(number, source, key=str(first), message_id=f"{number}")
                except BrokerUnavailable:
                    continue
                except OutcomeUnknown:
                    self._recorder.outcome_unknown(number)
                    continue
                break
            self._recorder.confirmed(number)
            self.confirmed += 1
            self._grown.unpark_all()
            await trio.sleep(pause)


@asynccontextmanager
async def traffic(
    broker: Broker[Any], source: Any, recorder: Recorder, *, total: int, publishers: int = 50, pause: float = 0
) -> AsyncIterator[Traffic]:
    """Serve `broker`, publish to `source` and handle what comes, in order per key, for the length of the block."""
    running = Traffic(broker, recorder, total)

    @broker.subscriber(source, concurrency=50, ordered_by="key")
    async def handle(number: int, message: Message) -> None:
        running.saw(number, message.key)

    async with running.app.open(), trio.open_nursery() as nursery:
        for first in range(publishers):
            nursery.start_soon(running.publish, source, first, publishers, pause)
        yield running
        nursery.cancel_scope.cancel()
