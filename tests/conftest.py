"""Fixtures of all tests: brokers, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from .bench.kafka import install
from .bench.kafka.admin import KafkaAdmin
from .bench.kafka.cluster import KafkaCluster, kafka_cluster
from .bench.kafka.node import KafkaServer, kafka_server
from .bench.leaks import Holdings
from .bench.rabbit import RabbitServer, Vhost, rabbit_server, scripts
from .bench.servers import RedisServer, redis_server
from .bench.table import FaultTable

TABLE = pytest.StashKey[FaultTable]()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test ends with the threads, sockets and files that it began with."""
    before = Holdings.now()
    yield
    after = Holdings.now()
    if not after.within(before):
        # What only waits for the collector is no leak; it is slow, so it is asked in doubt only.
        gc.collect()
        after = Holdings.now()
    assert after.threads <= before.threads, f"threads left over: {after.threads - before.threads}"
    assert after.sockets <= before.sockets, f"{after.sockets - before.sockets} sockets left over"
    assert after.files <= before.files, f"{after.files - before.files} files left over"


@pytest.fixture
async def redis_process(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis of this test's own, running, to be stopped, killed and frozen at will."""
    with redis_server(tmp_path) as server:
        await server.start()
        yield server


@pytest.fixture
async def two_redis_processes(tmp_path: Path) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """Two of them, with nothing in common."""
    for name in "ab":
        (tmp_path / name).mkdir()
    with redis_server(tmp_path / "a") as first, redis_server(tmp_path / "b") as second:
        await first.start()
        await second.start()
        yield first, second


@pytest.fixture(scope="session")
def shared_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One RabbitMQ for all tests that leave it running: it takes seconds to start. Use `rabbit`."""
    with rabbit_server(tmp_path_factory.mktemp("rabbit")) as server:
        server.launch()
        server.wait_until_it_answers()
        yield server


@pytest.fixture
async def rabbit(shared_rabbit: RabbitServer) -> Vhost:
    """An empty virtual host of a RabbitMQ that others use too."""
    return await shared_rabbit.new_vhost()


@pytest.fixture
async def rabbit_process(tmp_path: Path) -> AsyncIterator[RabbitServer]:
    """A RabbitMQ of this test's own, running, to be stopped, killed and frozen at will."""
    (tmp_path / "rabbit").mkdir()
    with rabbit_server(tmp_path / "rabbit") as server:
        await server.start()
        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaAdmin]:
    """The Kafka that all tests share which do it no harm: that of $KAFKA_BOOTSTRAP, or one node of our own."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield KafkaAdmin(bootstrap)
        return
    with kafka_server(tmp_path_factory.mktemp("kafka")) as server:
        trio.run(server.start)
        yield server.admin


@pytest.fixture
async def topic(kafka: KafkaAdmin, request: pytest.FixtureRequest) -> str:
    """A topic of this test's own on the shared Kafka, with four partitions."""
    name = re.sub(r"[^\w.-]", "-", request.node.name)[:100]
    return await kafka.create_topic(f"{name}-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def kafka_to_come(tmp_path: Path) -> Iterator[KafkaServer]:
    """One that is not started yet."""
    with kafka_server(tmp_path / "kafka") as server:
        yield server


@pytest.fixture
async def kafka_process(kafka_to_come: KafkaServer) -> KafkaServer:
    """A Kafka of one node of this test's own, running, to be stopped, killed and frozen at will."""
    await kafka_to_come.start()
    return kafka_to_come


@pytest.fixture
async def kafka_nodes(tmp_path: Path) -> AsyncIterator[KafkaCluster]:
    """Three nodes of one cluster, running."""
    with kafka_cluster(tmp_path / "kafka") as cluster:
        await cluster.start()
        yield cluster


#: By the argument of the mark `broker`: why there is no such server on this machine; None if there is.
MISSING = {
    "redis": None if shutil.which("redis-server") else "redis-server is not on PATH",
    "rabbitmq": None if scripts() else "rabbitmq-server is not on PATH",
    "kafka": None if os.environ.get("KAFKA_BOOTSTRAP") else install.missing(),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A broker that cannot be had fails the tests in CI, and is a loud skip elsewhere."""
    for item in items:
        mark = item.get_closest_marker("broker")
        for name in (mark.args or ["redis"]) if mark is not None else []:
            if (why := MISSING[name]) is not None and not os.environ.get("CI"):
                item.add_marker(pytest.mark.skip(reason=f"NO {name.upper()}: {why}; see ./scripts/test"))


@pytest.fixture
def fault_table(pytestconfig: pytest.Config) -> FaultTable:
    """Where a fault test adds its row. Written to the documentation with --write-fault-table only."""
    return pytestconfig.stash.setdefault(TABLE, FaultTable())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-fault-table", action="store_true", help="write the rows of this run to docs/faults.md")


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.stash.get(TABLE, None)
    if table is not None and session.config.getoption("--write-fault-table"):
        table.write()
