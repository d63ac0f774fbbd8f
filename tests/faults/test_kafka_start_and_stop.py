"""Starting without a Kafka, and stopping in every state: with `runtime run` in processes of its own where signals count."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from adapters.kafka import KafkaBroker
from runtime import LinkState, Runtime

from ..bench.kafka.node import KafkaServer, before, kafka_server
from ..bench.table import FaultTable
from ..bench.waiting import until
from . import frost, processes, stories
from .kafka_place import behind_a_proxy, place

pytestmark = pytest.mark.broker("kafka")


@pytest.mark.promise("P4")
@pytest.mark.parametrize(
    "how", [*(pytest.param(h, marks=[pytest.mark.soak]) for h in ("absent", "refusing")), "black-holed"]
)
async def test_serve_starts_at_once_without_kafka_and_consumes_when_it_appears(
    kafka_to_come: KafkaServer, how: str
) -> None:
    arrived = trio.Event()
    async with before(kafka_to_come) as proxy:
        if how != "absent":
            {"refusing": proxy.refuse, "black-holed": proxy.ignore}[how]()
            await kafka_to_come.start()
        broker = KafkaBroker(f"kafka://{kafka_to_come.bootstrap}", connect_limit=1)

        @broker.subscriber("orders")
        async def handle(number: int) -> None:
            arrived.set()

        app = Runtime(broker)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(1):
                await nursery.start(app.serve)
            assert not app.status().ready
            await until(lambda: app.status().broker("kafka").error)
            status = app.status().broker("kafka")
            assert status.state in (LinkState.DOWN, LinkState.CONNECTING)
            assert kafka_to_come.bootstrap in str(status.error)
            assert not app.status().ready

            if how == "absent":
                await kafka_to_come.start()
            proxy.forward()
            with trio.fail_after(5):
                await broker.publish(1, "orders")
                await arrived.wait()
            await until(lambda: app.status().ready)
            app.stop()


@pytest.mark.promise("P4")
async def test_a_name_that_nobody_knows_is_a_state_that_names_it() -> None:
    app = Runtime(KafkaBroker("kafka://broker.invalid:9092"))
    async with trio.open_nursery() as nursery:
        with trio.fail_after(1):
            await nursery.start(app.serve)
        await until(lambda: "broker.invalid" in str(app.status().broker("kafka").error), within=20)
        assert not app.status().ready
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1


@pytest.mark.promise("P4")
async def test_3_a_cluster_that_is_absent_at_the_start_is_connected_to_within_5_s(
    tmp_path: Path, fault_table: FaultTable
) -> None:
    with kafka_server(tmp_path / "kafka") as server:
        fault_table.add(await stories.absent_at_start(place(server, connect_limit=1)))


@pytest.mark.promise("P9")
async def test_22_sigterm_with_200_in_flight_doubles_nothing(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")

    async def is_settled() -> bool:
        """All are committed, and it said good-bye."""
        return (await admin.lag("default", "orders"), await admin.members("default")) == (0, {})

    row = await processes.sigterm_with_200_in_flight(place(kafka_process), tmp_path, admin.add_numbers, is_settled)
    fault_table.add(row)


@pytest.mark.promise("P6", "P9")
async def test_23_a_handler_stuck_past_the_grace_is_cancelled_and_its_message_delivered_again(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    row = await processes.sigterm_with_a_stuck_handler(place(kafka_process), tmp_path, admin.add_numbers)
    fault_table.add(row)


@pytest.mark.promise("P6")
async def test_24_of_a_killed_worker_exactly_what_was_in_flight_is_handled_again(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    # A dead member is found out when its session times out: here in a second, by default in 45.
    here = place(kafka_process, properties={"session.timeout.ms": 1000, "heartbeat.interval.ms": 200})
    again, within = place(kafka_process).broker(), 1 + 5
    row = await processes.killed_with_40_in_flight(here, tmp_path, admin.add_numbers, again, "orders", within)
    fault_table.add(row)


@pytest.mark.promise("P9")
async def test_a_drain_with_40_taken_at_concurrency_4_loses_none_and_doubles_none(
    kafka_process: KafkaServer,
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    await admin.add_numbers("orders", 40)
    broker = KafkaBroker(f"kafka://{kafka_process.bootstrap}")
    handled: list[int] = []

    @broker.subscriber("orders", concurrency=4, prefetch=40)
    async def handle(number: int) -> None:
        await trio.sleep(0.05)
        handled.append(number)

    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().broker("kafka").subscriptions[0].unsettled == 40 or len(handled) >= 4)
        assert len(handled) < 20, "most of them still wait"
    first = len(handled)
    assert first < 40
    # What was finished may lie behind what was given back, and is then delivered again: once, and only that.
    async with app.open():
        await until(lambda: set(handled) == set(range(40)))
    assert len(handled) <= 40 + first
    assert await admin.lag("default", "orders") == 0


#: Where there is no need of a server: nobody gets through to it.
BEFORE_ANY_SERVER = ["black-holed connect", "slow DNS", "back-off"]


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "moment",
    ["refused reconnect", "black-holed connect", "slow DNS", "back-off", "idle long-poll", "black-holed session"],
)
async def test_32_sigterm_ends_the_process_in_whatever_moment_it_comes(
    kafka_to_come: KafkaServer, tmp_path: Path, fault_table: FaultTable, moment: str
) -> None:
    here = (place if moment in BEFORE_ANY_SERVER else behind_a_proxy)(kafka_to_come, connect_limit=1)
    row = await processes.sigterm_in(moment, here, tmp_path, lambda: kafka_to_come.admin.members("default"))
    fault_table.add(row)


@pytest.mark.promise("P2")
async def test_32_sigterm_with_commits_and_publishes_outstanding_on_a_frozen_broker(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    here = place(kafka_process)
    fault_table.add(await frost.sigterm_with_acks_and_publishes_outstanding(here, tmp_path, admin.add_numbers))
    assert await admin.lag("default", "orders") >= 5, "some were not committed"
