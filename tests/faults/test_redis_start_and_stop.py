"""Starting without a Redis, and stopping in every state: with `runtime run` in processes of its own where signals count."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime import LinkState, Runtime

from ..bench.servers import RedisServer, redis_server
from ..bench.waiting import until
from ..bench.worker import worker

pytestmark = pytest.mark.broker

#: What the processes of these tests run: {url} is the server's.
HANDLERS = """
import os, trio
from runtime import Message, Runtime
from adapters.redis import RedisBroker, Stream

broker = RedisBroker("{url}")
app = Runtime(broker, grace={grace})
source = Stream("orders", group="billing", poll={poll}, lease={lease})

@broker.subscriber(source, concurrency={concurrency})
@broker.publisher("done")
async def handle(number: int, message: Message) -> int:
    print("handling", number, flush=True)
    await trio.sleep({duration})
    return number
"""


def handlers(server: RedisServer, **options: float) -> str:
    chosen = {"grace": 10, "poll": 5, "lease": 30, "concurrency": 10, "duration": 0, **options}
    return HANDLERS.format(url=server.url, **chosen)


@pytest.mark.promise("P4")
async def test_serve_starts_at_once_without_redis_and_consumes_when_it_appears(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        broker = RedisBroker(server.url)
        arrived = trio.Event()

        @broker.subscriber("orders")
        async def handle(number: int) -> None:
            arrived.set()

        app = Runtime(broker)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(1):
                await nursery.start(app.serve)
            await until(lambda: app.status().broker("redis").error)
            status = app.status().broker("redis")
            assert status.state in (LinkState.DOWN, LinkState.CONNECTING)
            assert "Connection refused" in str(status.error)
            assert not app.status().ready

            await server.start()
            with trio.fail_after(5):
                await broker.publish(1, "orders")
                await arrived.wait()
            await until(lambda: app.status().ready)
            app.stop()


@pytest.mark.promise("P3")
async def test_a_poll_longer_than_any_start_limit_holds_nothing_up(redis_process: RedisServer, tmp_path: Path) -> None:
    async with worker(tmp_path, handlers(redis_process, poll=10)) as running:
        await running.says("connected", within=5)
        with redis_process.client() as client:

            def blocked() -> int:
                return int(client.info("clients")["blocked_clients"])

            await until(lambda: blocked() == 1)
            # Longer than the 3 s that once cancelled such a start, and most of the poll.
            await trio.sleep(4)
            assert running.process.poll() is None
            assert blocked() == 1, "the poll of 10 s should still be the same one"
            client.xadd("orders", {"body": "7"})
            await running.says("handling 7", within=1)
            await until(lambda: blocked() == 1)
            running.signal()
            status, seconds = await running.ends(within=5)
            assert (status, seconds < 1) == (0, True), running.output
            # It left nothing behind on the server either.
            assert client.xinfo_consumers("orders", "billing") == []


@pytest.mark.promise("P2")
async def test_sigterm_while_reconnecting_to_a_refusing_server_ends_the_process_at_once(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, handlers(redis_process), "--log-level", "debug") as running:
        await running.says("connected")
        redis_process.kill()
        await running.says("cannot connect", times=3)
        running.signal()
        status, seconds = await running.ends(within=5)
        assert (status, seconds < 1) == (0, True), running.output


@pytest.mark.promise("P9")
async def test_sigterm_with_200_in_flight_settles_each_once(redis_process: RedisServer, tmp_path: Path) -> None:
    module = handlers(redis_process, concurrency=200, duration=1.5)
    async with worker(tmp_path, module) as running:
        await running.says("connected")
        with redis_process.client() as client:
            redis_process.add_numbers("orders", 300)  # at once: none may be done before the last has begun
            await running.says("handling", times=200)
            assert client.xpending("orders", "billing")["pending"] >= 200
            running.signal()
            status, seconds = await running.ends(within=10)
            assert status == 0, running.output
            assert seconds < 4
            done = [int(fields[b"body"]) for _, fields in client.xrange("done")]
            assert len(done) == len(set(done)) == 200, "each of those in flight was handled, and none twice"
            # What had been taken and not started was given back, and waits for the next worker, uncounted.
            waiting = client.xpending_range("orders", "billing", "-", "+", 300)
            assert {(row["consumer"], row["times_delivered"]) for row in waiting} <= {(b"~released", 0)}
    async with worker(tmp_path, handlers(redis_process, concurrency=200)) as running:
        with redis_process.client() as client:
            await until(lambda: client.xlen("done") == 300, within=5)
            await until(lambda: client.xpending("orders", "billing")["pending"] == 0)


@pytest.mark.promise("P6", "P9")
async def test_a_handler_stuck_past_the_grace_is_cancelled_and_its_message_delivered_again(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, handlers(redis_process, duration=3600, grace=1)) as running:
        with redis_process.client() as client:
            client.xadd("orders", {"body": "1"})
            await running.says("handling 1")
            running.signal()
            status, seconds = await running.ends(within=5)
            assert (status, 0.9 < seconds < 2) == (3, True), running.output
            assert "handlers.handle" in running.output.split("grace of 1 s is over")[1]
    async with worker(tmp_path, handlers(redis_process)) as running:
        await running.says("handling 1", within=2)
        with redis_process.client() as client:
            await until(lambda: client.xlen("done") == 1)


@pytest.mark.promise("P9")
async def test_while_one_broker_drains_its_handlers_still_publish_to_the_other(
    two_redis_processes: tuple[RedisServer, RedisServer],
) -> None:
    first, second = two_redis_processes
    one, other = RedisBroker(first.url, name="one"), RedisBroker(second.url, name="other")
    started, stopped = trio.Event(), trio.Event()

    @one.subscriber("orders")
    async def handle(number: int) -> None:
        started.set()
        await stopped.wait()
        await trio.sleep(0.3)  # the drain is well under way
        await other.publish(number, "done")

    app = Runtime(one, other)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await one.publish(1, "orders")
        await started.wait()
        app.stop()
        stopped.set()
    with first.client() as a, second.client() as b:
        assert b.xlen("done") == 1
        assert a.xpending("orders", "default")["pending"] == 0


@pytest.mark.promise("P2")
async def test_cancelling_the_surrounding_scope_tears_down_within_a_second_and_gives_messages_back(
    redis_process: RedisServer,
) -> None:
    broker = RedisBroker(redis_process.url)
    started = trio.Event()

    @broker.subscriber(Stream("orders", lease=30))
    async def handle(number: int) -> None:
        started.set()
        await trio.sleep_forever()

    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(1, "orders")
        await started.wait()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    with redis_process.client() as client:
        # At once, not when the lease runs out: it is parked, with its idle time set to the lease.
        (row,) = client.xpending_range("orders", "default", "-", "+", 10)
        assert row["consumer"] == b"~released"
        assert row["time_since_delivered"] >= 29_000


async def test_the_same_app_served_100_times_leaves_nothing_behind(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled = 0

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        nonlocal handled
        handled += 1

    app = Runtime(broker)
    with redis_process.client() as client:
        client.ping()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for number in range(100):
            async with app.open():
                await broker.publish(number, "orders")
                await until(lambda: handled == number + 1)  # noqa: B023
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        # Ours and redis-py's one; ours are gone from the server's view too.
        await until(lambda: client.info("clients")["connected_clients"] == 1)
        assert client.xinfo_consumers("orders", "default") == []
