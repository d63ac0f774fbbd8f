"""Kafka passes the conformance suite: on a real node, behind a proxy, and on librdkafka's mock cluster."""

from __future__ import annotations

import socket
import struct
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar, Unpack

import pytest
import trio
from confluent_kafka import Producer

from adapters.kafka import KafkaBroker, Topic
from runtime.broker import BrokerOptions
from runtime.delivery import Delivery
from runtime.message import NO_HEADERS
from runtime.testing.conformance import AdapterConformance, Rig

from ..bench.kafka.admin import KafkaAdmin
from ..bench.kafka.node import KafkaServer, kafka_server
from ..bench.mock_kafka import MockKafkaAdmin, mock_kafka
from ..bench.process import free_port
from ..bench.proxy import Proxy, open_proxy
from .proxied import ProxiedRig


class KafkaRig(Rig):
    """Of a cluster whose topics have one partition, so that all that is in a topic is in one order."""

    features = KafkaBroker.features
    #: A cluster takes a little more than a million bytes by default, with the key and the headers.
    largest = 1_000_000 - 1000
    properties: ClassVar[Mapping[str, int]] = {}

    def __init__(self, bootstrap: str, admin: KafkaAdmin) -> None:
        self.bootstrap = bootstrap
        self.admin = admin
        #: One for all subscriptions of a test, which then share a consumer, and for no other test.
        self.group = f"conformance-{uuid.uuid4().hex[:12]}"

    def make_broker(self, **options: Unpack[BrokerOptions]) -> KafkaBroker:
        return KafkaBroker(self.bootstrap, properties=self.properties, **options)

    def source(self, name: str, group: str | None = None) -> Topic:
        return Topic(name, group=group or self.group)

    async def foreign_publish(self, name: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        def produce() -> None:
            producer = Producer({"bootstrap.servers": self.admin.bootstrap, "log_level": 0})
            producer.produce(name, body, headers=list(headers.items()))
            assert producer.flush(self.patience) == 0

        await trio.to_thread.run_sync(produce)


# ---- a real node -------------------------------------------------------------------------------------------------


class RealRig(KafkaRig, ProxiedRig[KafkaServer]):
    def __init__(self, server: KafkaServer, proxy: Proxy) -> None:
        super().__init__(server.bootstrap, server.admin)
        self.server = server
        self.proxy = proxy

    async def take_lease(self, delivery: Delivery) -> None:
        """Its group throws its holder out, as one that has been silent for too long."""
        group: str = delivery.source.group
        described = await self.admin.ask(lambda admin: admin.describe_consumer_groups([group])[group].result(10))
        for member in described.members:
            await trio.to_thread.run_sync(_evict, described.coordinator, group, member.member_id)


def _evict(coordinator: object, group: str, member: str) -> None:
    """The member leaves the group, says somebody else."""
    request = struct.pack(">hhih", 13, 1, 0, -1)  # LeaveGroup, version 1, of a client without a name
    for text in (group, member):
        request += struct.pack(">h", len(text)) + text.encode()
    with socket.create_connection((coordinator.host, coordinator.port), timeout=5) as connection:  # type: ignore[attr-defined]
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.recv(100)
    (error,) = struct.unpack(">h", answer[-2:])
    assert error == 0, f"the group did not let {member} go: error {error}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One for all tests: each makes its own names."""
    with kafka_server(tmp_path_factory.mktemp("kafka"), {"num.partitions": 1}) as server:
        server.advertise(free_port())
        trio.run(server.start)
        yield server


@pytest.mark.broker("kafka")
class TestKafka(AdapterConformance):
    rig_type = RealRig

    @pytest.fixture
    async def rig(self, server: KafkaServer) -> AsyncIterator[RealRig]:
        async with open_proxy(server.port, at=int(server.bootstrap.rpartition(":")[2])) as proxy:
            yield RealRig(server, proxy)


# ---- the mock ----------------------------------------------------------------------------------------------------


class MockRig(KafkaRig):
    """Without `take_lease`: the mock does not tell its members."""

    admin: MockKafkaAdmin
    #: A rebalance of the mock takes a session's time-out less a second, whoever has answered by then; and a fetch that
    #: waits is not told of new records.
    properties: ClassVar[Mapping[str, int]] = {
        "session.timeout.ms": 1200,
        "heartbeat.interval.ms": 50,
        "fetch.wait.max.ms": 20,
    }

    def source(self, name: str, group: str | None = None) -> Topic:
        # It makes a topic by itself, with four partitions.
        for topic in (name, f"{name}.rejected"):
            self.admin.make_topic(topic, 1)
        return super().source(name, group)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.admin.go_down()
        try:
            yield
        finally:
            self.admin.come_up()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        self.admin.freeze()
        try:
            yield
        finally:
            self.admin.thaw()


@pytest.fixture(scope="module", autouse=True)
def mock() -> Iterator[MockKafkaAdmin]:
    """Autouse, so that its pipes are there before the first test counts its files."""
    with mock_kafka() as mock:
        yield mock


class TestMock(AdapterConformance):
    rig_type = MockRig

    @pytest.fixture
    def rig(self, mock: MockKafkaAdmin) -> MockRig:
        return MockRig(mock.bootstrap, mock)
