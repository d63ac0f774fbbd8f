"""A server that is stopped with SIGSTOP: its sockets stay open and nothing answers, which no error betrays."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime import Backoff, BrokerUnavailable, LinkState, Runtime

from ..bench import trials
from ..bench.servers import RedisServer
from ..bench.waiting import until
from ..bench.worker import worker

pytestmark = pytest.mark.broker

#: Handles on cue, so that acks and publishes are outstanding when the server is frozen.
HANDLERS = """
import pathlib, trio
from runtime import Runtime
from adapters.redis import RedisBroker

broker = RedisBroker("{url}")
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
async def test_sigterm_with_acks_and_publishes_outstanding_ends_within_two_seconds_of_the_grace(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, HANDLERS.format(url=redis_process.url)) as running:
        await running.says("connected")
        with redis_process.client() as client:
            for number in range(10):
                client.xadd("orders", {"body": str(number)})
            await running.says("handling", times=10)
        redis_process.freeze()
        (tmp_path / "frozen").touch()
        await running.says("handled", times=5)  # their acks are outstanding
        await running.says("publishing", times=5)  # and these publishes
        running.signal()
        status, seconds = await running.ends(within=10)
        assert (status, seconds < 1 + 2) == (3, True), running.output
        assert "cancelling handlers.handle" in running.output
    redis_process.thaw()
    with redis_process.client() as client:
        # The proof that acks were outstanding, and that none is called done that was not.
        assert client.xpending("orders", "default")["pending"] in range(11)
        assert client.xlen("done") <= 5


@pytest.mark.promise("P2")
async def test_cancelling_the_scope_around_a_frozen_broker_takes_less_than_a_second(
    redis_process: RedisServer,
) -> None:
    await trials.cancelled_when_frozen(RedisBroker(redis_process.url), "orders", redis_process)


@pytest.mark.promise("P5")
async def test_a_publish_that_was_sent_into_the_frost_has_an_unknown_outcome(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url, publish_limit=1, probe_interval=60)
    await trials.published_into_the_frost(broker, "orders", redis_process)
    with redis_process.client() as client:
        bodies = [fields[b"body"] for _, fields in client.xrange("orders")]
    # Unknown it was: the server took it after all, and it was not sent twice.
    assert bodies == [b"0", b"1", b"2"]


@pytest.mark.promise("P5")
async def test_publishing_while_disconnected_waits_and_is_cancellable_and_bounded(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url, publish_limit=1, backoff=Backoff(cap=0.2))
    app = Runtime(broker)
    async with app.open():
        await broker.publish(0, "orders")
        redis_process.kill()
        await until(lambda: app.status().broker("redis").state is not LinkState.CONNECTED)
        began = trio.current_time()
        with trio.move_on_after(0.2):
            await broker.publish(1, "orders")
        assert trio.current_time() - began < 0.4
        with pytest.raises(BrokerUnavailable, match="refused"):
            await broker.publish(2, "orders")
        assert 1 <= trio.current_time() - began - 0.2 < 1.5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.publish, 3, "orders")
            await redis_process.start()
    with redis_process.client() as client:
        assert [fields[b"body"] for _, fields in client.xrange("orders")] == [b"0", b"3"]


@pytest.mark.promise("P1", "P3")
async def test_a_frozen_server_is_degraded_then_lost_and_found_again(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url, probe_interval=0.5)
    handled: list[int] = []

    @broker.subscriber(Stream("orders", poll=30))
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    async with app.open():
        await broker.publish(0, "orders")
        await until(lambda: handled == [0])
        redis_process.freeze()
        await until(lambda: app.status().broker("redis").state is LinkState.DEGRADED, within=1.5)
        down = (LinkState.DOWN, LinkState.CONNECTING)
        await until(lambda: app.status().broker("redis").state in down, within=1.5)
        redis_process.thaw()
        await broker.publish(1, "orders")
        await until(lambda: handled == [0, 1])


@pytest.mark.promise("P1")
@pytest.mark.parametrize("fate", ["kill", "freeze", "close"])
async def test_what_happens_to_one_broker_changes_nothing_for_another(
    two_redis_processes: tuple[RedisServer, RedisServer], fate: str
) -> None:
    first, second = two_redis_processes
    victim, other = RedisBroker(first.url, name="victim"), RedisBroker(second.url, name="other")
    await trials.beside_a_broker_that_ends(other, victim, "orders", first, fate)
