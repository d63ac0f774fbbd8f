"""The fault list on a real Redis under load, through the proxy: what is lost, doubled, out of order and left over."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.redis import RedisBroker, Stream
from runtime import Runtime

from ..bench.recorder import Recorder
from ..bench.servers import RedisServer, redis_server
from ..bench.table import FaultTable
from ..bench.waiting import until
from . import processes, siblings, stories
from .place import Place
from .redis_place import place

pytestmark = pytest.mark.broker


@pytest.fixture
def here(redis_process: RedisServer) -> Place:
    return place(redis_process)


@pytest.mark.promise("P5", "P6")
async def test_1_a_server_restarted_twice_under_load_loses_nothing(here: Place, fault_table: FaultTable) -> None:
    fault_table.add(await stories.restarted_under_load(here))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_2_a_server_down_for_a_minute_is_not_ready_within_seconds_and_loses_nothing(
    here: Place, fault_table: FaultTable
) -> None:
    fault_table.add(await stories.down_for_a_minute(here))


@pytest.mark.promise("P4")
async def test_3_a_server_that_is_absent_at_the_start_is_connected_to_within_5_s(
    tmp_path: Path, fault_table: FaultTable
) -> None:
    with redis_server(tmp_path) as server:
        fault_table.add(await stories.absent_at_start(place(server)))


@pytest.mark.promise("P5", "P6")
async def test_4_a_reset_in_the_middle_of_a_frame(here: Place, fault_table: FaultTable) -> None:
    fault_table.add(await stories.reset_in_mid_frame(here))


@pytest.mark.promise("P2", "P5")
@pytest.mark.parametrize("direction", ["upstream", "downstream"])
async def test_5_6_a_black_hole_is_found_within_two_probes(
    here: Place, fault_table: FaultTable, direction: str
) -> None:
    fault_table.add(await stories.black_hole(here, direction))


async def test_7_half_a_second_of_latency_is_no_reason_to_hang_up(here: Place, fault_table: FaultTable) -> None:
    fault_table.add(await stories.latency(here))


@pytest.mark.parametrize("flaps", [pytest.param(60), pytest.param(1000, marks=[pytest.mark.soak])])
@pytest.mark.timeout(200)
async def test_8_connection_flaps_leave_nothing_behind(here: Place, fault_table: FaultTable, flaps: int) -> None:
    fault_table.add(await stories.flaps(here, flaps))


@pytest.mark.promise("P5")
async def test_12_a_lost_confirm_is_an_unknown_outcome(
    redis_process: RedisServer, here: Place, fault_table: FaultTable
) -> None:
    def stored(stream: str) -> int:
        with redis_process.client() as client:
            return int(client.xlen(stream))

    fault_table.add(await stories.confirm_lost(here, stored))


@pytest.mark.promise("P1", "P2", "P4")
@pytest.mark.parametrize("how", siblings.UNREACHABLE)
async def test_33_a_broker_that_cannot_be_reached_holds_up_neither_the_start_nor_another_nor_the_end(
    here: Place, how: str, fault_table: FaultTable
) -> None:
    with siblings.name_service(how):
        fault_table.add(await siblings.beside_an_unreachable_broker(here, how))


@pytest.mark.promise("P6")
async def test_16_24_of_a_killed_worker_exactly_what_was_in_flight_is_handled_again_in_time(
    redis_process: RedisServer, here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    add_numbers = redis_process.add_numbers
    stream, within = Stream("orders", lease=1), 1 + 5
    row = await processes.killed_with_40_in_flight(here, tmp_path, add_numbers, here.broker(), stream, within)
    fault_table.add(row)


@pytest.mark.promise("P9")
async def test_22_sigterm_with_200_in_flight_doubles_nothing(
    redis_process: RedisServer, here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    def nothing_pending() -> bool:
        with redis_process.client() as client:
            return bool(client.xpending("orders", "default")["pending"] == 0)

    row = await processes.sigterm_with_200_in_flight(here, tmp_path, redis_process.add_numbers, nothing_pending)
    fault_table.add(row)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("moment", processes.MOMENTS)
async def test_32_sigterm_ends_the_process_in_whatever_moment_it_comes(
    redis_process: RedisServer, here: Place, tmp_path: Path, fault_table: FaultTable, moment: str
) -> None:
    def polls() -> bool:
        with redis_process.client() as client:
            return bool(client.info("clients")["blocked_clients"] == 1)

    fault_table.add(await processes.sigterm_in(moment, here, tmp_path, polls))


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
