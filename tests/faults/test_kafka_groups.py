"""Consumer groups on a real Kafka: what a member may do, and what it has to leave to the next. The server is asked."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from adapters.kafka import KafkaBroker
from runtime import Message, Runtime

from ..bench.kafka.node import JAVA, REQUESTS, KafkaServer, kafka_server
from ..bench.kafka.requests import Requests
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.waiting import until, until_told

pytestmark = pytest.mark.broker("kafka")

#: A member that is gone is found out in seconds.
BRIEF = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 300}


@pytest.fixture
async def telling_kafka(tmp_path: Path) -> AsyncIterator[KafkaServer]:
    """A Kafka that tells of every request."""
    with kafka_server(tmp_path / "kafka", java=(*JAVA, REQUESTS)) as server:
        await server.start()
        yield server


class Storm:
    """Members that come and go, while numbers are published under twenty keys."""

    def __init__(self, server: KafkaServer, recorder: Recorder, seed: int) -> None:
        self.published = 0
        self.handled: set[int] = set()
        self.brokers: list[KafkaBroker] = []
        self._server = server
        self._recorder = recorder
        self._dice = random.Random(seed)
        self._over = trio.Event()

    async def blow(self, seconds: float, members: int) -> None:
        """Members join and leave for that long, beside one that stays, and finishes what is left."""
        async with Runtime(self._member()).open():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._publish)
                for number in range(members):
                    nursery.start_soon(self._come_and_go, number)
                await trio.sleep(seconds)
                self._over.set()
            await until(lambda: len(self.handled) == self.published, within=90, why=self._missing)
            await until_told(self._is_committed)
        # Who leaves in the middle of a rebalance may have to wait for it in a thread of his own.
        await until(lambda: not any(broker.left_over for broker in self.brokers), within=20)

    async def _is_committed(self) -> bool:
        return await self._server.admin.lag("default", "orders") == 0

    def _missing(self) -> object:
        missing = sorted(set(range(self.published)) - self.handled)
        return len(missing), missing[:20], "threads left over:", sum(broker.left_over for broker in self.brokers)

    def _member(self) -> KafkaBroker:
        self.brokers.append(broker := KafkaBroker(f"kafka://{self._server.bootstrap}", properties=BRIEF))

        @broker.subscriber("orders", concurrency=10, ordered_by="key")
        async def handle(number: int, message: Message) -> None:
            await trio.sleep(self._dice.uniform(0, 0.02))
            self.handled.add(number)
            self._recorder.handled(number, message.key)

        return broker

    async def _publish(self) -> None:
        broker = KafkaBroker(f"kafka://{self._server.bootstrap}", name="publisher")
        async with Runtime(broker).open():
            while not self._over.is_set():
                # One at a time: the order of the numbers of a key is the order of their publishing.
                number = self.published
                await broker.publish(number, "orders", key=str(number % 20))
                self._recorder.confirmed(number)
                self.published += 1
                await trio.sleep(0.002)

    async def _come_and_go(self, number: int) -> None:
        await trio.sleep(0.5 * number)
        while not self._over.is_set():
            async with Runtime(self._member(), grace=2).open():
                with trio.move_on_after(self._dice.uniform(2, 6)):
                    await self._over.wait()
            with trio.move_on_after(self._dice.uniform(0, 1)):
                await self._over.wait()


@pytest.mark.promise("P6")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("seconds", "members"), [pytest.param(6, 4), pytest.param(60, 9, marks=[pytest.mark.soak])], ids=["short", "long"]
)
async def test_18_a_rebalance_storm_ends_without_a_commit_after_a_revoke(
    telling_kafka: KafkaServer, fault_table: FaultTable, seconds: float, members: int
) -> None:
    await telling_kafka.admin.create_topic("orders", 8)
    with Recorder(18, f"rebalance storm, {members + 1} members for {seconds} s", broker="kafka") as recorder:
        storm = Storm(telling_kafka, recorder, seed=18)
        recorder.mark_fault(unsettled=0)
        await storm.blow(seconds, members)
        told = Requests(telling_kafka.log)
        recorder.fault("generations", proof=len(told.owners) > members)
        recorder.fault("commits", proof=len(told.commits) > members)
        assert [str(commit) for commit in told.after_a_revoke()] == []
        assert [str(commit) for commit in told.steps_back()] == []
        # Who leaves in the middle of a rebalance finds his last commits refused: the next owner handles that again.
        fault_table.add(recorder.check(duplicates_at_most=storm.published))


@pytest.mark.promise("P6")
async def test_19_a_handler_longer_than_max_poll_interval_causes_no_rebalance(
    telling_kafka: KafkaServer, fault_table: FaultTable
) -> None:
    await telling_kafka.admin.create_topic("orders", 2)
    limit = 1.0
    brief = {**BRIEF, "session.timeout.ms": 1000, "max.poll.interval.ms": int(1000 * limit)}
    broker = KafkaBroker(f"kafka://{telling_kafka.bootstrap}", properties=brief)
    done = trio.Event()
    with Recorder(19, "handler of 3x max.poll.interval", broker="kafka") as recorder:

        @broker.subscriber("orders", concurrency=2, prefetch=2)
        async def handle(number: int) -> None:
            if number == 0:
                began = trio.current_time()
                await trio.sleep(3 * limit)
                recorder.fault("it took that long", proof=trio.current_time() - began >= 3 * limit)
                done.set()
            recorder.handled(number)

        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().ready)
            await until_told(lambda: telling_kafka.admin.members("default"))
            before = Requests(telling_kafka.log).joins
            recorder.mark_fault(unsettled=0)
            for number in range(10):  # more than it may take: it is paused
                await broker.publish(number, "orders")
                recorder.confirmed(number)
            await done.wait()
            await until(lambda: app.status().broker("kafka").subscriptions[0].acked == 10)
            assert Requests(telling_kafka.log).joins == before >= 1
        assert await telling_kafka.admin.lag("default", "orders") == 0
        fault_table.add(recorder.check())
