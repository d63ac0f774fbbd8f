"""Redis Streams pass the conformance suite, on a real server, behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Unpack

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime.broker import BrokerOptions
from runtime.delivery import Delivery
from runtime.message import NO_HEADERS
from runtime.testing.conformance import AdapterConformance

from ..bench.proxy import open_proxy
from ..bench.servers import RedisServer, redis_server
from .proxied import ProxiedRig

pytestmark = pytest.mark.broker


class RedisRig(ProxiedRig[RedisServer]):
    features = RedisBroker.features
    lease = 1.0

    def make_broker(self, **options: Unpack[BrokerOptions]) -> RedisBroker:
        return RedisBroker(f"redis://127.0.0.1:{self.proxy.port}", **options)

    def source(self, name: str, group: str | None = None) -> Stream:
        return Stream(name, group=group or "default", lease=self.lease)

    async def foreign_publish(self, name: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        with self.server.client() as client:
            client.xadd(name, {"body": body, **headers})

    async def take_lease(self, delivery: Delivery) -> None:
        stream: Stream = delivery.source
        with self.server.client() as client:
            client.xclaim(stream.name, str(stream.group), "thief", 0, [delivery.receipt])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests: each makes its own names."""
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        trio.run(server.start)
        yield server


class TestRedis(AdapterConformance):
    rig_type = RedisRig

    @pytest.fixture
    async def rig(self, server: RedisServer) -> AsyncIterator[RedisRig]:
        async with open_proxy(server.port) as proxy:
            yield RedisRig(server, proxy)
