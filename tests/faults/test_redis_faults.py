"""The fault list on a real Redis under load, through the proxy: what is lost, doubled, out of order and left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from adapters.redis import RedisBroker, Stream
from runtime import Backoff, OutcomeUnknown, Runtime

from ..bench import trials
from ..bench.dns import failing_dns, slow_dns
from ..bench.proxy import open_proxy
from ..bench.recorder import Recorder
from ..bench.servers import RedisServer, redis_server
from ..bench.table import FaultTable
from ..bench.waiting import until
from ..bench.worker import printing, worker

pytestmark = pytest.mark.broker


@pytest.mark.promise("P5", "P6")
async def test_1_a_server_restarted_twice_under_load_loses_nothing(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(1, "restarted at ⅓ and ½ of 10,000", broker="redis") as recorder:
        await trials.restarted_twice(RedisBroker(redis_process.url), "orders", redis_process, recorder)
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_2_a_server_down_for_a_minute_is_not_ready_within_seconds_and_loses_nothing(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(2, "killed, down 60 s", broker="redis") as recorder:
        await trials.down_for_a_minute(RedisBroker(redis_process.url), "orders", redis_process, recorder)
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


@pytest.mark.promise("P4")
async def test_3_a_server_that_is_absent_at_the_start_is_connected_to_within_5_s(
    tmp_path: Path, fault_table: FaultTable
) -> None:
    with Recorder(3, "absent at start", broker="redis") as recorder, redis_server(tmp_path) as server:
        await trials.absent_at_start(RedisBroker(server.url), "orders", server, recorder)
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P5", "P6")
async def test_4_a_reset_in_the_middle_of_a_frame(redis_process: RedisServer, fault_table: FaultTable) -> None:
    with Recorder(4, "TCP reset in mid-frame", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}")
            await trials.reset_in_mid_frame(broker, "orders", proxy, recorder)
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=5))


@pytest.mark.promise("P2", "P5")
@pytest.mark.parametrize(("number", "direction"), [(5, "upstream"), (6, "downstream")])
async def test_5_6_a_black_hole_is_found_within_two_probes(
    redis_process: RedisServer, fault_table: FaultTable, number: int, direction: Literal["upstream", "downstream"]
) -> None:
    with Recorder(number, f"black hole {direction}", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", probe_interval=1, connect_limit=1)
            await trials.black_hole(broker, "orders", proxy, recorder, direction)
        # Acks that were swallowed are sent again, so none of them is a duplicate; publishes of unknown outcome are.
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


async def test_7_half_a_second_of_latency_is_no_reason_to_hang_up(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(7, "500 ms latency with jitter", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", probe_interval=2)
            await trials.latency(broker, "orders", proxy, recorder)
        fault_table.add(recorder.check())


@pytest.mark.parametrize("flaps", [pytest.param(60), pytest.param(1000, marks=[pytest.mark.soak])])
@pytest.mark.timeout(200)
async def test_8_connection_flaps_leave_nothing_behind(
    redis_process: RedisServer, fault_table: FaultTable, flaps: int
) -> None:
    with Recorder(8, f"{flaps:,} connection flaps", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            quick = Backoff(first=0.01, cap=0.02)
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", backoff=quick)
            await trials.flaps(broker, "orders", proxy, recorder, flaps)
        fault_table.add(recorder.check(duplicates_at_most=2_000))


@pytest.mark.promise("P5")
async def test_12_a_lost_confirm_is_an_unknown_outcome(redis_process: RedisServer, fault_table: FaultTable) -> None:
    with Recorder(12, "confirm lost", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}")
            handled: list[int] = []

            @broker.subscriber("orders")
            async def handle(number: int) -> None:
                handled.append(number)
                recorder.handled(number)

            app = Runtime(broker)
            async with app.open():
                await until(lambda: app.status().ready)
                proxy.cut_after(1, "down")
                recorder.mark_fault(unsettled=1)
                with pytest.raises(OutcomeUnknown):
                    await broker.publish(1, "elsewhere", message_id="one")
                recorder.outcome_unknown(1)
                recorder.fault("the connection was cut in the confirm", proof=proxy.resets)
                await broker.publish(1, "orders", message_id="one")
                recorder.confirmed(1)
                await until(lambda: handled)
        with redis_process.client() as client:
            recorder.fault("the server had taken it", proof=client.xlen("elsewhere") == 1)
        fault_table.add(recorder.check(duplicates_at_most=1, recovery_within=5))


@pytest.fixture(params=["absent", "refusing", "black-holed", "slow DNS", "failing DNS"])
def unreachable(request: pytest.FixtureRequest) -> Iterator[str]:
    """How a server cannot be reached."""
    name = request.param
    assert isinstance(name, str)
    if name == "slow DNS":
        with slow_dns({"broker.test": 30.0}) as lookups:
            yield name
            assert lookups.count, "the name was looked up"
            assert lookups.most_outstanding == 1
    elif name == "failing DNS":
        with failing_dns("broker.test") as lookups:
            yield name
            assert lookups.count
    else:
        yield name


@pytest.mark.promise("P1", "P2", "P4")
async def test_33_a_broker_that_cannot_be_reached_holds_up_neither_the_start_nor_another_nor_the_end(
    redis_process: RedisServer, unreachable: str, fault_table: FaultTable
) -> None:
    with Recorder(33, f"another broker {unreachable}", broker="redis") as recorder:
        await beside_an_unreachable_broker(redis_process, unreachable, recorder)
        # A look-up in a thread cannot be interrupted: one is left until the resolver gives up, and never a second.
        fault_table.add(recorder.check(leftovers=1 if unreachable == "slow DNS" else 0))


async def beside_an_unreachable_broker(redis_process: RedisServer, unreachable: str, recorder: Recorder) -> None:
    async with open_proxy(redis_process.port) as proxy:
        host = "broker.test" if "DNS" in unreachable else "127.0.0.1"
        if unreachable in ("absent", "refusing"):
            proxy.refuse()
        elif unreachable == "black-holed":
            proxy.ignore()
        victim = RedisBroker(f"redis://{host}:{proxy.port}", name="victim")
        healthy = RedisBroker(redis_process.url.replace("127.0.0.1", "localhost"), name="healthy")
        await trials.beside_an_unreachable_broker(healthy, victim, "orders", recorder)


def worker_module(url: str, *, setup: str = "", grace: float = 10, duration: float = 0) -> str:
    setup = f"from adapters.redis import RedisBroker, Stream\n{setup}"
    broker, source = f'RedisBroker("{url}", probe_interval=1)', 'Stream("orders", lease=1)'
    return printing(broker, source, setup=setup, grace=grace, duration=duration)


@pytest.mark.promise("P6")
async def test_16_24_of_a_killed_worker_exactly_what_was_in_flight_is_handled_again_in_time(
    redis_process: RedisServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    with Recorder(24, "worker killed, 40 in flight", broker="redis") as recorder:
        async with worker(tmp_path, worker_module(redis_process.url, duration=3600)) as running:
            await running.says("connected")
            with redis_process.client() as client:
                redis_process.add_numbers("orders", 40)
                for number in range(40):
                    recorder.confirmed(number)
                await running.says("handling", times=40)
                running.process.kill()
                recorder.mark_fault(unsettled=40)
                await running.process.wait()
                recorder.fault("entries without a living owner", proof=client.xpending("orders", "default")["pending"])
        for number in range(40):
            recorder.handled(number)
        recorder.mark_fault(unsettled=40)
        broker = RedisBroker(redis_process.url)
        again: list[int] = []

        @broker.subscriber(Stream("orders", lease=1))
        async def handle(number: int) -> None:
            recorder.handled(number)
            again.append(number)

        async with Runtime(broker).open():
            await until(lambda: len(again) >= 40, within=1 + 5)
        assert sorted(again) == list(range(40))
        fault_table.add(recorder.check(duplicates_at_most=40, recovery_within=1 + 5))


@pytest.mark.promise("P9")
async def test_22_sigterm_with_200_in_flight_doubles_nothing(
    redis_process: RedisServer, tmp_path: Path, fault_table: FaultTable
) -> None:
    with Recorder(22, "SIGTERM, 200 in flight", broker="redis") as recorder:
        async with worker(tmp_path, worker_module(redis_process.url, duration=1)) as running:
            await running.says("connected")
            with redis_process.client() as client:
                redis_process.add_numbers("orders", 200)  # at once: none may be done before the last has begun
                await trials.sigterm_in_flight(running, recorder, 200)
                assert client.xpending("orders", "default")["pending"] == 0
        fault_table.add(recorder.check())


@pytest.mark.promise("P2")
@pytest.mark.parametrize(
    "moment", ["black-holed connect", "slow DNS", "back-off", "idle long-poll", "black-holed session"]
)
async def test_32_sigterm_ends_the_process_in_whatever_moment_it_comes(
    redis_process: RedisServer, tmp_path: Path, fault_table: FaultTable, moment: str
) -> None:
    with Recorder(32, f"SIGTERM in {moment}", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            setup = ""
            if moment == "slow DNS":
                url = f"redis://broker.test:{proxy.port}"
                setup = "from tests.bench.dns import install_slow\ninstall_slow({'broker.test': 60.0})"
            elif moment == "black-holed connect":
                proxy.ignore()
            elif moment == "back-off":
                proxy.refuse()
            module = worker_module(url, setup=setup, grace=1)
            async with worker(tmp_path, module, "--log-level", "debug") as running:
                if moment == "slow DNS":
                    await running.says("looking up broker.test")
                    recorder.fault("a look-up under way", proof="connected" not in running.output)
                elif moment == "black-holed connect":
                    await until(lambda: proxy.knocking)
                    recorder.fault("an attempt without an answer", proof=proxy.knocking)
                elif moment == "back-off":
                    await running.says("trying again until it works", times=4)
                    recorder.fault("attempts refused", proof=proxy.refuses())
                else:
                    await running.says("connected")
                    with redis_process.client() as client:
                        blocked = client.info("clients")["blocked_clients"]
                        await until(lambda: client.info("clients")["blocked_clients"] == 1)
                        recorder.fault("a blocked read", proof=blocked in (0, 1))
                    if moment == "black-holed session":
                        proxy.swallow()
                recorder.mark_fault(unsettled=0)
                running.signal()
                _, seconds = await running.ends(within=5)
                recorder.mark_recovered()
                assert seconds < 1 + 2, running.output
                assert "Traceback" not in running.output
        fault_table.add(recorder.check(recovery_within=1 + 2))


@pytest.mark.promise("P6")
async def test_15_flushall_and_26_a_poison_message_do_no_harm_to_their_neighbours(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    broker = RedisBroker(redis_process.url)
    handled: list[int] = []
    recorder: Recorder

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)
        recorder.handled(number)

    app = Runtime(broker)
    with redis_process.client() as client:
        client.ping()  # so that its socket does not count as left over
        with Recorder(15, "FLUSHALL", broker="redis") as recorder:
            async with app.open():
                await until(lambda: app.status().ready)
                client.flushall()
                recorder.fault("all is gone", proof=client.dbsize() == 0)
                recorder.mark_fault(unsettled=0)
                await broker.publish(1, "orders")
                recorder.confirmed(1)
                await until(lambda: handled == [1])
            fault_table.add(recorder.check(recovery_within=5))
        with Recorder(26, "undecodable message", broker="redis") as recorder:
            async with app.open():
                client.xadd("orders", {"body": "poison"})
                recorder.mark_fault(unsettled=0)
                for number in range(2, 12):
                    await broker.publish(number, "orders")
                    recorder.confirmed(number)
                await until(lambda: sorted(handled) == list(range(1, 12)))
                await until(lambda: client.xlen("orders.rejected") == 1)
                recorder.fault("it was set aside", proof=client.xlen("orders.rejected"))
            fault_table.add(recorder.check(recovery_within=5))
