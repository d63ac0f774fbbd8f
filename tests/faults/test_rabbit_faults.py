"""The fault list on a real RabbitMQ under load, through the proxy: what is lost, doubled, out of order and left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from pamqp import base
from pamqp.commands import Basic, Connection, Queue

from adapters.rabbitmq import RabbitBroker
from runtime import Runtime

from ..bench.mute import open_mute_server
from ..bench.proxy import open_proxy
from ..bench.rabbit import RabbitServer, Vhost, rabbit_server
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.waiting import until
from ..bench.worker import worker
from . import processes, siblings, stories
from .place import Place, record_handled, slowest_publish
from .rabbit_place import Connection as Kind, place

pytestmark = pytest.mark.broker("rabbitmq")


@pytest.fixture
def here(rabbit: Vhost, connection: Kind) -> Place:
    """On a server that others use too: it stays up."""
    return place(rabbit, connection)


@pytest.fixture
def alone(rabbit_process: RabbitServer, connection: Kind) -> Place:
    return place(rabbit_process.vhost, connection)


@pytest.mark.promise("P5", "P6")
async def test_1_a_server_restarted_twice_under_load_loses_nothing(alone: Place, fault_table: FaultTable) -> None:
    fault_table.add(await stories.restarted_under_load(alone))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_2_a_server_down_for_a_minute_is_not_ready_within_seconds_and_loses_nothing(
    alone: Place, fault_table: FaultTable
) -> None:
    fault_table.add(await stories.down_for_a_minute(alone))


@pytest.mark.promise("P4")
async def test_3_a_server_that_is_absent_at_the_start_is_connected_to_within_5_s(
    tmp_path: Path, connection: Kind, fault_table: FaultTable
) -> None:
    with rabbit_server(tmp_path) as server:
        fault_table.add(await stories.absent_at_start(place(server.vhost, connection)))


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
async def test_12_a_lost_confirm_is_an_unknown_outcome(rabbit: Vhost, here: Place, fault_table: FaultTable) -> None:
    fault_table.add(await stories.confirm_lost(here, rabbit.ready))


@pytest.mark.promise("P1", "P2", "P4")
@pytest.mark.parametrize("how", siblings.UNREACHABLE)
async def test_33_a_broker_that_cannot_be_reached_holds_up_neither_the_start_nor_another_nor_the_end(
    here: Place, how: str, fault_table: FaultTable
) -> None:
    with siblings.name_service(how):
        fault_table.add(await siblings.beside_an_unreachable_broker(here, how))


@pytest.mark.promise("P6")
async def test_24_of_a_killed_worker_exactly_what_was_in_flight_is_handled_again(
    rabbit: Vhost, here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    again = here.broker()
    row = await processes.killed_with_40_in_flight(here, tmp_path, rabbit.add_numbers, again, "orders", within=5)
    fault_table.add(row)


@pytest.mark.promise("P9")
async def test_22_sigterm_with_200_in_flight_doubles_nothing(
    rabbit: Vhost, here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    row = await processes.sigterm_with_200_in_flight(
        here, tmp_path, rabbit.add_numbers, is_settled=lambda: rabbit.ready("orders") == 0
    )
    fault_table.add(row)


@pytest.mark.promise("P6", "P9")
async def test_23_a_handler_stuck_past_the_grace_is_cancelled_and_its_message_delivered_again(
    rabbit: Vhost, here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    fault_table.add(await processes.sigterm_with_a_stuck_handler(here, tmp_path, rabbit.add_numbers))


@pytest.mark.promise("P6", "P9")
async def test_25_a_rolling_restart_loses_doubles_and_disorders_nothing(
    here: Place, tmp_path: Path, fault_table: FaultTable
) -> None:
    fault_table.add(await processes.rolling_restart(here, tmp_path))


@pytest.mark.promise("P2")
@pytest.mark.parametrize("mute", [Connection.Open, Queue.Declare, Basic.Consume])
async def test_32_sigterm_while_a_method_of_the_start_has_no_answer_ends_the_process(
    here: Place, tmp_path: Path, fault_table: FaultTable, mute: type[base.Frame]
) -> None:
    with here.recorder(32, f"SIGTERM in {mute.name}") as recorder:
        async with (
            open_mute_server(mute) as server,
            worker(tmp_path, processes.worker_module(here, server.port, grace=1)) as running,
        ):
            with trio.fail_after(10):
                await server.asked.wait()
            recorder.fault("it waits for the answer", proof="handling" not in running.output)
            recorder.mark_fault(unsettled=0)
            running.signal()
            _, seconds = await running.ends(within=5)
            recorder.mark_recovered()
            assert seconds < 1 + 2, running.output
        fault_table.add(recorder.check(recovery_within=1 + 2))


@pytest.mark.promise("P5")
async def test_4_an_idle_connection_that_something_in_between_gave_up_is_replaced(here: Place) -> None:
    async with open_proxy(here.server.port) as proxy:
        broker = here.broker(proxy.port)
        handled = record_handled(broker)
        app = Runtime(broker)
        async with app.open():
            await broker.publish(1, "orders")
            await until(lambda: handled == [1])
            proxy.reset()
            with trio.fail_after(5):
                await until(lambda: app.status().brokers[0].sessions == 2)
                await broker.publish(2, "orders")
                await until(lambda: handled == [1, 2])
        assert proxy.resets


@pytest.mark.promise("P2")
@pytest.mark.parametrize("moment", processes.MOMENTS)
async def test_32_sigterm_ends_the_process_in_whatever_moment_it_comes(
    rabbit: Vhost, here: Place, tmp_path: Path, fault_table: FaultTable, moment: str
) -> None:
    fault_table.add(await processes.sigterm_in(moment, here, tmp_path, lambda: rabbit.consumers("orders")))


@pytest.mark.promise("P6")
async def test_26_a_poison_message_does_no_harm_to_its_neighbours(rabbit: Vhost, fault_table: FaultTable) -> None:
    with Recorder(26, "undecodable message", broker="rabbitmq") as recorder:
        broker = RabbitBroker(rabbit.url)
        handled = record_handled(broker, recorder)
        async with Runtime(broker).open():
            rabbit.add("orders", b"poison")
            recorder.mark_fault(unsettled=0)
            await slowest_publish(broker, range(10), recorder)
            await until(lambda: sorted(handled) == list(range(10)))
            await until(lambda: rabbit.ready("orders.rejected") == 1)
            recorder.fault("it was set aside", proof=rabbit.take("orders.rejected") == [b"poison"])
        fault_table.add(recorder.check(recovery_within=5))
