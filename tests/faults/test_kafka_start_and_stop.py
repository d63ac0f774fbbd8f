"""Starting without a Kafka, and stopping in every state: with `runtime run` in processes of its own where signals count."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from adapters.kafka import KafkaBroker
from runtime import LinkState, Runtime

from ..bench import trials
from ..bench.kafka.node import KafkaServer, before, kafka_server
from ..bench.proxy import Proxy
from ..bench.recorder import Recorder
from ..bench.resolver import slow_resolver
from ..bench.table import FaultTable
from ..bench.waiting import until, until_told
from ..bench.worker import printing, worker

pytestmark = pytest.mark.broker("kafka")


def module(servers: str, *, options: str = "probe_interval=1", grace: float = 10, duration: float = 0) -> str:
    setup, broker = "from adapters.kafka import KafkaBroker", f'KafkaBroker("kafka://{servers}", {options})'
    return printing(broker, '"orders"', setup=setup, grace=grace, duration=duration)


@pytest.mark.promise("P4")
@pytest.mark.parametrize("how", ["absent", pytest.param("refusing", marks=[pytest.mark.soak]), "black-holed"])
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
    with Recorder(3, "absent at start", broker="kafka") as recorder, kafka_server(tmp_path / "kafka") as server:
        broker = KafkaBroker(f"kafka://{server.bootstrap}", connect_limit=1)
        await trials.absent_at_start(broker, "orders", server, recorder)
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P9")
async def test_22_sigterm_with_200_in_flight_doubles_nothing(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    with Recorder(22, "SIGTERM, 200 in flight", broker="kafka") as recorder:
        async with worker(tmp_path, module(kafka_process.bootstrap, duration=1)) as running:
            await running.says("connected")
            await admin.add_numbers("orders", 200)
            await trials.sigterm_in_flight(running, recorder, 200)
            assert await admin.lag("default", "orders") == 0, "all are committed"
            assert await admin.members("default") == {}, "it said good-bye"
        fault_table.add(recorder.check())


@pytest.mark.promise("P6", "P9")
async def test_23_a_handler_stuck_past_the_grace_is_cancelled_and_its_message_delivered_again(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    await admin.add_numbers("orders", 1)
    with Recorder(23, "SIGTERM, one handler stuck", broker="kafka") as recorder:
        recorder.confirmed(0)
        async with worker(tmp_path, module(kafka_process.bootstrap, duration=3600, grace=1)) as running:
            await running.says("handling 0")
            recorder.fault("its handler sleeps", proof="handled" not in running.output)
            running.signal()
            status, seconds = await running.ends(within=5)
            assert (status, 0.9 < seconds < 1 + 2) == (3, True), running.output
            assert "handlers.handle" in running.output.split("grace of 1 s is over")[1]
        recorder.mark_fault(unsettled=1)
        async with worker(tmp_path, module(kafka_process.bootstrap)) as running:
            await running.says("handled 0", within=5)
            recorder.handled(0)
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P6")
async def test_24_of_a_killed_worker_exactly_what_was_in_flight_is_handled_again(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    # A dead member is found out when its session times out: here in a second, by default in 45.
    options = 'properties={"session.timeout.ms": 1000, "heartbeat.interval.ms": 200}'
    with Recorder(24, "worker killed, 40 in flight", broker="kafka") as recorder:
        async with worker(tmp_path, module(kafka_process.bootstrap, options=options, duration=3600)) as running:
            await running.says("connected")
            await admin.add_numbers("orders", 40)
            for number in range(40):
                recorder.confirmed(number)
            await running.says("handling", times=40)
            running.process.kill()
            await running.process.wait()
        recorder.fault("nothing was committed", proof=await admin.lag("default", "orders") == 40)
        for number in range(40):
            recorder.handled(number)
        recorder.mark_fault(unsettled=40)
        broker = KafkaBroker(f"kafka://{kafka_process.bootstrap}")
        again: list[int] = []

        @broker.subscriber("orders")
        async def handle(number: int) -> None:
            recorder.handled(number)
            again.append(number)

        async with Runtime(broker).open():
            await until(lambda: len(again) >= 40, within=1 + 5)
        assert sorted(again) == list(range(40))
        fault_table.add(recorder.check(duplicates_at_most=40, recovery_within=1 + 5))


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


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "moment",
    ["refused reconnect", "black-holed connect", "slow DNS", "back-off", "idle long-poll", "black-holed session"],
)
async def test_32_sigterm_ends_the_process_in_whatever_moment_it_comes(
    kafka_to_come: KafkaServer, tmp_path: Path, fault_table: FaultTable, moment: str
) -> None:
    with Recorder(32, f"SIGTERM in {moment}", broker="kafka") as recorder:
        async with before(kafka_to_come) as proxy:
            await terminate_in(moment, kafka_to_come, proxy, tmp_path, recorder)
        fault_table.add(recorder.check(recovery_within=1 + 2))


async def terminate_in(moment: str, server: KafkaServer, proxy: Proxy, folder: Path, recorder: Recorder) -> None:
    servers, environment = server.bootstrap, dict(os.environ)
    if moment == "slow DNS":
        servers, environment = f"broker.test:{proxy.port}", slow_resolver(folder)
    elif moment == "black-holed connect":
        proxy.ignore()
    elif moment == "back-off":
        proxy.refuse()
    else:
        await server.start()
        await server.admin.create_topic("orders")
    source = module(servers, options="probe_interval=1, connect_limit=1", grace=1)
    async with worker(folder, source, "--log-level", "debug", environment=environment) as running:
        if moment == "slow DNS":
            await running.says("looking up broker.test")
            recorder.fault("a look-up under way", proof="connected" not in running.output)
        elif moment == "black-holed connect":
            await until(lambda: proxy.knocking)
            recorder.fault("an attempt without an answer", proof=proxy.knocking)
        elif moment == "back-off":
            await running.says("trying again until it works", times=3)
            recorder.fault("attempts refused", proof=proxy.refuses())
        else:
            await running.says("connected")
            await until_told(lambda: server.admin.members("default"))
            recorder.fault("connections through the proxy", proof=proxy.open)
            if moment == "refused reconnect":
                proxy.refuse()
                proxy.reset()
                await running.says("refused")
            elif moment == "black-holed session":
                proxy.swallow()
        recorder.mark_fault(unsettled=0)
        running.signal()
        _, seconds = await running.ends(within=10)
        recorder.mark_recovered()
        assert seconds < 1 + 2, running.output
        assert "Traceback" not in running.output


#: Handles on cue, so that commits and publishes are outstanding when the server is frozen.
ON_CUE = """
import pathlib, trio
from runtime import Runtime
from adapters.kafka import KafkaBroker

broker = KafkaBroker("kafka://{servers}")
app = Runtime(broker, grace=1)

@broker.subscriber("orders", concurrency=20)
async def handle(number: int) -> None:
    print("handling", number, flush=True)
    while not pathlib.Path("frozen").exists():
        await trio.sleep(0.01)
    if number % 2:
        print("publishing", number, flush=True)
        await broker.publish(number, "done")
    print("handled", number, flush=True)
"""


@pytest.mark.promise("P2")
async def test_32_sigterm_with_commits_and_publishes_outstanding_on_a_frozen_broker(
    kafka_process: KafkaServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders")
    with Recorder(32, "SIGTERM on a frozen broker", broker="kafka") as recorder:
        async with worker(tmp_path, ON_CUE.format(servers=kafka_process.bootstrap)) as running:
            await running.says("connected")
            await admin.add_numbers("orders", 10)
            await running.says("handling", times=10)
            kafka_process.freeze()
            (tmp_path / "frozen").touch()
            await running.says("handled", times=5)  # their commits are outstanding
            await running.says("publishing", times=5)  # and these publishes
            recorder.mark_fault(unsettled=0)
            running.signal()
            status, seconds = await running.ends(within=10)
            recorder.mark_recovered()
            assert (status, seconds < 1 + 2) == (3, True), running.output
            assert "cancelling handlers.handle" in running.output
        kafka_process.thaw()
        recorder.fault("some were not committed", proof=await admin.lag("default", "orders") >= 5)
        fault_table.add(recorder.check(recovery_within=1 + 2))
