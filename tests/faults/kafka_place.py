"""Where the faults of `stories` happen to a Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from adapters.kafka import KafkaBroker

from ..bench.kafka.node import KafkaServer, before
from ..bench.proxy import Proxy
from ..bench.waiting import until
from .place import Place

#: What the stories publish to and read.
TOPICS = ("orders", "other")


@dataclass(frozen=True, kw_only=True)
class KafkaPlace(Place):
    """A server that runs already, or never will."""

    server: KafkaServer
    kind: str = "kafka"
    broker_type: type[KafkaBroker] = KafkaBroker
    url_format: str = "kafka://{host}:{port}"
    connects_itself: bool = True
    brokers: list[KafkaBroker] = field(default_factory=list)

    def broker(self, port: int | None = None, *, host: str = "127.0.0.1", **options: Any) -> KafkaBroker:
        broker = super().broker(port, host=host, **options)
        assert isinstance(broker, KafkaBroker)
        self.brokers.append(broker)
        return broker

    async def at_rest(self) -> None:
        """A thread whose call waits for a silent cluster is given up on, and ends when the cluster speaks again."""
        await until(lambda: not any(broker.left_over for broker in self.brokers))


class KafkaBehindAProxy(KafkaPlace):
    """A server that is not started yet. It sends its clients to the address that it is told: so the proxy comes first."""

    @asynccontextmanager
    async def open_proxy(self) -> AsyncIterator[Proxy]:
        async with before(self.server) as proxy:
            await self.server.start()
            for topic in TOPICS:
                await self.server.admin.create_topic(topic)
            yield proxy


def place(server: KafkaServer, **options: object) -> KafkaPlace:
    return KafkaPlace(server=server, options=options)


def behind_a_proxy(server: KafkaServer, **options: object) -> KafkaPlace:
    return KafkaBehindAProxy(server=server, options=options)
