"""A Redis that is stopped with SIGSTOP, or taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.redis import RedisBroker
from runtime import Runtime

from ..bench.servers import RedisServer
from ..bench.table import FaultTable
from . import frost, siblings
from .place import Place
from .redis_place import place

pytestmark = pytest.mark.broker


@pytest.fixture
def here(redis_process: RedisServer) -> Place:
    return place(redis_process)


@pytest.mark.promise("P2")
async def test_sigterm_with_acks_and_publishes_outstanding_ends_within_two_seconds_of_the_grace(
    redis_process: RedisServer, here: Place, tmp_path: Path
) -> None:
    await frost.sigterm_with_acks_and_publishes_outstanding(here, tmp_path, redis_process.add_numbers)
    with redis_process.client() as client:
        # The proof that acks were outstanding, and that none is called done that was not.
        assert client.xpending("orders", "default")["pending"] in range(11)
        assert client.xlen("done") <= 5


@pytest.mark.promise("P2")
async def test_cancelling_the_scope_around_a_frozen_broker_takes_less_than_a_second(here: Place) -> None:
    await frost.cancel_around_a_frozen_broker(here)


@pytest.mark.promise("P5")
async def test_a_publish_that_was_sent_into_the_frost_has_an_unknown_outcome(
    redis_process: RedisServer, here: Place
) -> None:
    await frost.publish_into_the_frost(here)
    assert bodies(redis_process) == [b"0", b"1", b"2"]


@pytest.mark.promise("P5")
async def test_publishing_while_disconnected_waits_and_is_cancellable_and_bounded(
    redis_process: RedisServer, here: Place
) -> None:
    await frost.publish_while_disconnected(here)
    assert bodies(redis_process) == [b"0", b"3"]


@pytest.mark.promise("P1", "P3")
async def test_a_frozen_server_is_degraded_then_lost_and_found_again(here: Place) -> None:
    await frost.degraded_then_lost_and_found_again(here)


@pytest.mark.promise("P1")
@pytest.mark.parametrize("fate", ["kill", "freeze", "close"])
async def test_what_happens_to_one_broker_changes_nothing_for_another(
    two_redis_processes: tuple[RedisServer, RedisServer], fate: str
) -> None:
    first, second = two_redis_processes
    strikes = {"kill": lambda _: first.kill(), "freeze": lambda _: first.freeze(), "close": Runtime.stop}
    victim, other = RedisBroker(first.url, name="victim"), RedisBroker(second.url, name="other")
    await siblings.neighbour_of(victim, other, strikes[fate])


def bodies(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return [fields[b"body"] for _, fields in client.xrange("orders")]


@pytest.mark.promise("P1", "P2")
async def test_33_of_several_brokers_in_one_process_one_suffers_and_the_others_publish_on_at_the_same_rate(
    here: Place, fault_table: FaultTable
) -> None:
    fault_table.add(await siblings.rounds_of_suffering(here, rounds=6))
