"""Who owns an entry, and who takes it over: leases on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime import Message, Runtime

from ..bench.servers import RedisServer
from ..bench.waiting import until
from ..bench.worker import worker
from .test_redis_start_and_stop import handlers

pytestmark = pytest.mark.broker


@pytest.mark.promise("P6")
async def test_what_a_killed_worker_held_is_taken_over_when_its_lease_runs_out(
    redis_process: RedisServer, tmp_path: Path
) -> None:
    async with worker(tmp_path, handlers(redis_process, duration=3600, lease=1)) as running:
        with redis_process.client() as client:
            for number in range(5):
                client.xadd("orders", {"body": str(number)})
            await running.says("handling", times=5)
            running.process.kill()
            await running.process.wait()
            assert client.xpending("orders", "billing")["pending"] == 5
    broker = RedisBroker(redis_process.url)
    seen: list[tuple[int, int]] = []

    @broker.subscriber(Stream("orders", group="billing", lease=1))
    async def handle(number: int, message: Message) -> None:
        seen.append((number, message.attempt))

    async with Runtime(broker).open():
        await until(lambda: len(seen) == 5, within=1 + 5)
    assert sorted(seen) == [(number, 2) for number in range(5)]


@pytest.mark.promise("P6")
async def test_the_lease_of_a_long_handler_is_renewed_so_nobody_runs_it_beside_itself(
    redis_process: RedisServer,
) -> None:
    source = Stream("orders", group="billing", lease=0.4)
    calls: list[str] = []

    def app_named(name: str) -> Runtime:
        broker = RedisBroker(redis_process.url)

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            calls.append(name)
            await trio.sleep(2)  # five leases

        return Runtime(broker)

    with redis_process.client() as client:
        client.xadd("orders", {"body": "1"})
        async with app_named("first").open(), app_named("second").open():
            await until(lambda: calls)
            await until(lambda: client.xpending("orders", "billing")["pending"] == 0)
    assert len(calls) == 1


@pytest.mark.promise("P6")
async def test_a_lease_is_kept_while_its_run_drains(redis_process: RedisServer) -> None:
    source = Stream("orders", group="billing", lease=0.4)
    broker, thief = RedisBroker(redis_process.url), RedisBroker(redis_process.url)
    started = trio.Event()
    stolen: list[int] = []

    @broker.subscriber(source)
    async def handle(number: int) -> None:
        started.set()
        await trio.sleep(2)

    @thief.subscriber(source)
    async def steal(number: int) -> None:
        stolen.append(number)

    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(1, "orders")
        await started.wait()
        app.stop()
        await nursery.start(Runtime(thief).serve)
        await until(lambda: not app.status().brokers)
        nursery.cancel_scope.cancel()
    assert stolen == []


@pytest.mark.promise("P6")
async def test_entries_that_arrive_while_a_poll_is_cancelled_are_neither_lost_nor_stranded(
    redis_process: RedisServer,
) -> None:
    """Publish all the time, open and close a consumer all the time: every entry is handled, long before its lease."""
    broker = RedisBroker(redis_process.url)
    handled: set[int] = set()

    @broker.subscriber(Stream("orders", lease=60))
    async def handle(number: int) -> None:
        handled.add(number)

    app = Runtime(broker)
    total = 0
    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            nonlocal total
            feeder = RedisBroker(redis_process.url)
            async with Runtime(feeder).open():
                while True:
                    await feeder.publish(total, "orders")
                    total += 1

        nursery.start_soon(feed)
        for round_ in range(60):
            with trio.move_on_after(0.02 + 0.001 * round_):
                await app.serve()
        nursery.cancel_scope.cancel()
    assert total > 500
    async with app.open():
        # A published one may be missing from `total` by one; it is handled all the same.
        await until(lambda: len(handled) >= total, within=10, why=lambda: (len(handled), total))
    with redis_process.client() as client:
        assert client.xpending("orders", "default")["pending"] == 0


async def test_a_released_message_comes_back_when_it_is_due_not_when_the_poll_ends(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    times: list[float] = []
    again = trio.Event()

    @broker.subscriber(Stream("orders", poll=30, lease=30))
    async def handle(number: int) -> None:
        times.append(trio.current_time())
        if len(times) == 1:
            raise ValueError("not yet")
        again.set()

    async with Runtime(broker).open():
        await broker.publish(1, "orders")
        with trio.fail_after(5):
            await again.wait()
    assert 0.2 <= times[1] - times[0] < 1


async def test_what_cannot_be_handled_is_set_aside_with_the_reason(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled: list[int] = []

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    with redis_process.client() as client:
        async with app.open():
            await broker.publish(b"\xff no JSON", "orders", headers={"tenant": "acme"})
            await broker.publish(1, "orders")
            await until(lambda: handled == [1])

            def counts() -> tuple[int, int, int]:
                (subscription,) = app.status().broker("redis").subscriptions
                return subscription.rejected, subscription.acked, subscription.received

            await until(lambda: counts() == (1, 1, 2), why=counts)
            assert client.xlen("orders.rejected") == 1
        ((_, fields),) = client.xrange("orders.rejected")
        assert fields[b"body"] == b"\xff no JSON"
        assert fields[b"tenant"] == b"acme"
        assert b"does not decode" in fields[b"rejected-reason"]
        assert fields[b"rejected-from"] == b"orders/default"
        assert client.xpending("orders", "default")["pending"] == 0
