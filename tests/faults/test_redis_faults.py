"""The fault list on a real Redis under load, through the proxy: what is lost, doubled, out of order and left over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime import Backoff, LinkState, OutcomeUnknown, Runtime

from ..bench.dns import failing_dns, slow_dns
from ..bench.proxy import open_proxy
from ..bench.recorder import Recorder
from ..bench.servers import RedisServer, redis_server
from ..bench.table import FaultTable
from ..bench.traffic import traffic
from ..bench.waiting import until

pytestmark = pytest.mark.broker


@pytest.mark.promise("P5", "P6")
async def test_1_a_server_restarted_twice_under_load_loses_nothing(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(1, "restarted at ⅓ and ½ of 10,000", broker="redis") as recorder:
        broker = RedisBroker(redis_process.url)
        async with traffic(broker, "orders", recorder, total=10_000, publishers=100) as load:
            for share in (1 / 3, 1 / 2):
                await load.reaches(share)
                unsettled = load.unsettled
                redis_process.kill()
                await until(lambda: load.app.status().broker("redis").state is not LinkState.CONNECTED)
                await redis_process.start()
                recorder.mark_fault(unsettled=unsettled)
            await load.ends()
            recorder.fault("sessions after the first", proof=load.app.status().broker("redis").sessions >= 3)
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_2_a_server_down_for_a_minute_is_not_ready_within_seconds_and_loses_nothing(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(2, "killed, down 60 s", broker="redis") as recorder:
        async with traffic(RedisBroker(redis_process.url), "orders", recorder, total=2_000) as load:
            await load.reaches(1 / 2)
            redis_process.kill()
            await until(lambda: not load.app.status().ready, within=5)
            recorder.fault("the server is gone", proof=not redis_process.is_running())
            await trio.sleep(60)
            await redis_process.start()
            recorder.mark_fault()
            await load.ends()
        fault_table.add(recorder.check(duplicates_at_most=100 + len(recorder.unknown), recovery_within=10))


@pytest.mark.promise("P4")
async def test_3_a_server_that_is_absent_at_the_start_is_connected_to_within_5_s(
    tmp_path: Path, fault_table: FaultTable
) -> None:
    with Recorder(3, "absent at start", broker="redis") as recorder, redis_server(tmp_path) as server:
        async with traffic(RedisBroker(server.url), "orders", recorder, total=100, publishers=10) as load:
            await until(lambda: load.app.status().broker("redis").attempts >= 3)
            recorder.fault("attempts before it came", proof=load.app.status().broker("redis").attempts)
            await server.start()
            recorder.mark_fault()
            await load.ends()
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P5", "P6")
async def test_4_a_reset_in_the_middle_of_a_frame(redis_process: RedisServer, fault_table: FaultTable) -> None:
    with Recorder(4, "TCP reset in mid-frame", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}")
            async with traffic(broker, "orders", recorder, total=3_000) as load:
                for share in (0.2, 0.4, 0.6):
                    await load.reaches(share)
                    resets = proxy.resets
                    proxy.cut_after(37, "down")
                    await until(lambda: proxy.resets > resets)  # noqa: B023
                    recorder.mark_fault(unsettled=load.unsettled)
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= 3)
        bound = 3 * recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=5))


@pytest.mark.promise("P2", "P5")
@pytest.mark.parametrize(("number", "direction"), [(5, "upstream"), (6, "downstream")])
async def test_5_6_a_black_hole_is_found_within_two_probes(
    redis_process: RedisServer, fault_table: FaultTable, number: int, direction: str
) -> None:
    with Recorder(number, f"black hole {direction}", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            probe = 1.0
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", probe_interval=probe, connect_limit=1)
            async with traffic(broker, "orders", recorder, total=3_000) as load:
                await load.reaches(1 / 3)
                unsettled = load.unsettled
                proxy.swallow(up=direction == "upstream", down=direction == "downstream")
                await until(lambda: not load.app.status().broker("redis").ready, within=2 * probe)
                down = (LinkState.DOWN, LinkState.CONNECTING)
                await until(lambda: load.app.status().broker("redis").state in down, within=2 * probe)
                recorder.fault("bytes swallowed", proof=proxy.swallowed)
                proxy.forward()
                recorder.mark_fault(unsettled=unsettled)
                await load.ends()
        # Acks that were swallowed are sent again, so none of them is a duplicate; publishes of unknown outcome are.
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


async def test_7_half_a_second_of_latency_is_no_reason_to_hang_up(
    redis_process: RedisServer, fault_table: FaultTable
) -> None:
    with Recorder(7, "500 ms latency with jitter", broker="redis") as recorder:
        async with open_proxy(redis_process.port) as proxy:
            broker = RedisBroker(f"redis://127.0.0.1:{proxy.port}", probe_interval=2)
            async with traffic(broker, "orders", recorder, total=300, publishers=50) as load:
                await load.reaches(0.1)
                recorder.mark_fault()
                proxy.delay(0.25, jitter=0.1)  # each way
                await load.ends()
                recorder.fault("one session all the time", proof=load.app.status().broker("redis").sessions == 1)
                began = trio.current_time()
                await broker.publish(0, "other")
                recorder.fault("a round trip is slow", proof=trio.current_time() - began > 0.3)
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
            async with traffic(broker, "orders", recorder, total=2_000, publishers=10) as load:
                for flap in range(flaps):
                    await until(lambda: load.app.status().broker("redis").sessions > flap)  # noqa: B023
                    proxy.reset()
                recorder.mark_fault()
                await load.ends()
                recorder.fault("connections reset", proof=proxy.resets >= flaps)
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
    redis_process: RedisServer, unreachable: str
) -> None:
    async with open_proxy(redis_process.port) as proxy:
        host = "broker.test" if "DNS" in unreachable else "127.0.0.1"
        if unreachable in ("absent", "refusing"):
            proxy.refuse()
        elif unreachable == "black-holed":
            proxy.ignore()
        victim = RedisBroker(f"redis://{host}:{proxy.port}", name="victim")
        healthy = RedisBroker(redis_process.url.replace("127.0.0.1", "localhost"), name="healthy")
        handled: list[int] = []

        @victim.subscriber("orders")
        async def never(number: int) -> None: ...

        @healthy.subscriber(Stream("orders"))
        async def handle(number: int) -> None:
            handled.append(number)

        app = Runtime(victim, healthy)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(1):
                await nursery.start(app.serve)
            nursery.start_soon(victim.publish, 0, "orders")
            slowest = 0.0
            for number in range(300):
                began = trio.current_time()
                await healthy.publish(number, "orders")
                slowest = max(slowest, trio.current_time() - began)
            await until(lambda: sorted(handled) == list(range(300)))
            assert slowest < 0.5
            assert app.status().broker("healthy").ready
            assert not app.status().broker("victim").ready
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1
