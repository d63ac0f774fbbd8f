"""A RabbitMQ that is stopped with SIGSTOP, or taken away; and several brokers in one process, one of which suffers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..bench.rabbit import RabbitServer, Vhost
from ..bench.table import FaultTable
from ..bench.waiting import until
from . import frost, siblings
from .place import Place
from .rabbit_place import Connection, place

pytestmark = pytest.mark.broker("rabbitmq")


@pytest.fixture
def here(rabbit: Vhost, connection: Connection) -> Iterator[Place]:
    """On the server that all share: it may be frozen, and is thawed again."""
    yield place(rabbit, connection)
    rabbit.server.thaw()


@pytest.mark.promise("P2")
async def test_sigterm_with_acks_and_publishes_outstanding_ends_within_two_seconds_of_the_grace(
    rabbit: Vhost, here: Place, tmp_path: Path
) -> None:
    await frost.sigterm_with_acks_and_publishes_outstanding(here, tmp_path, rabbit.add_numbers)
    await until(lambda: not rabbit.consumers("orders"))
    left = {int(body) for body in rabbit.take("orders")}
    # Of those that were handled the acks had been sent, and may have arrived; the others were never acknowledged.
    assert {1, 3, 5, 7, 9} <= left <= set(range(10))


@pytest.mark.promise("P2")
async def test_cancelling_the_scope_around_a_frozen_broker_takes_less_than_a_second(here: Place) -> None:
    await frost.cancel_around_a_frozen_broker(here)


@pytest.mark.promise("P5")
async def test_a_publish_that_was_sent_into_the_frost_has_an_unknown_outcome(rabbit: Vhost, here: Place) -> None:
    await frost.publish_into_the_frost(here)
    assert rabbit.take("orders") == [b"0", b"1", b"2"]


@pytest.mark.promise("P5")
async def test_publishing_while_disconnected_waits_and_is_cancellable_and_bounded(rabbit: Vhost, here: Place) -> None:
    await frost.publish_while_disconnected(here)
    assert rabbit.take("orders") == [b"0", b"3"]


@pytest.mark.promise("P1", "P3")
async def test_a_frozen_server_is_degraded_then_lost_and_found_again(here: Place) -> None:
    await frost.degraded_then_lost_and_found_again(here)


@pytest.mark.promise("P1")
async def test_what_happens_to_one_server_changes_nothing_for_the_broker_of_another(
    rabbit_process: RabbitServer, rabbit: Vhost, connection: Connection
) -> None:
    there, here = place(rabbit_process.vhost, connection), place(rabbit, connection)
    await siblings.neighbour_of(there.broker(name="victim"), here.broker(name="other"), lambda _: there.server.freeze())
    there.server.thaw()
    await siblings.neighbour_of(there.broker(name="victim"), here.broker(name="other"), lambda _: there.server.kill())


@pytest.mark.promise("P1", "P2")
@pytest.mark.timeout(150)
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.soak)])
async def test_33_of_several_brokers_in_one_process_one_suffers_and_the_others_publish_on_at_the_same_rate(
    here: Place, fault_table: FaultTable, rounds: int
) -> None:
    fault_table.add(await siblings.rounds_of_suffering(here, rounds))
