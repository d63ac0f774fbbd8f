"""`open_test`: the application inside, worlds side by side, what leaves the block, plans and seeds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import (
    BrokerUnavailable,
    Message,
    NotServing,
    Phase,
    Router,
    Runtime,
    current_run,
)
from runtime.testing import PromiseBroken, World, open_test

from ..bench.waiting import until
from .billing import Billing, Order

# ---- the application inside --------------------------------------------------------------------------------------


async def test_status_and_the_current_run_are_there_inside(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        assert memory.app.status().ready
        assert current_run() is world.run
        (subscription,) = [s for s in memory.app.status().broker("memory").subscriptions if "orders" in s.source]
        assert subscription.prefetch == 18
    assert memory.app.status().phase is Phase.IDLE
    assert world.run.phase is Phase.CLOSED
    with pytest.raises(NotServing):
        await memory.broker.publish(b"x", "orders")


async def test_the_block_begins_when_every_subscription_is_open_but_for_those_of_a_broken_broker() -> None:
    one, two = MemoryBroker(name="one"), MemoryBroker(name="two")

    async def handle(body: str) -> None: ...

    one.subscriber("a")(handle)
    two.subscriber("b")(handle)
    three = MemoryBroker(name="three")  # it has no subscription to wait for
    app = Runtime(one, two, three)
    async with open_test(app, plan=lambda world: world.broker(two).refuse()):
        assert app.status().broker("one").ready
        assert app.status().broker("three").ready
        assert not app.status().broker("two").ready


async def test_an_application_that_stops_itself_while_it_starts_does_not_hold_up_the_block() -> None:
    broker = MemoryBroker()

    @broker.subscriber("a")
    async def handle(body: str) -> None: ...

    @broker.task
    async def stop() -> None:
        current_run().stop("changed my mind")

    with trio.fail_after(5):
        async with open_test(Runtime(broker)) as world:
            await world.settled()
            assert world.run.phase is not Phase.RUNNING


async def test_tasks_run_and_publish_and_are_cancelled_at_the_end(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    ticks: list[float] = []

    @broker.task
    async def tick() -> None:
        while True:
            await trio.sleep(60)
            await broker.publish("tick", "ticks")

    @broker.subscriber("ticks")
    async def note(body: str) -> None:
        ticks.append(trio.current_time())

    async with open_test(Runtime(broker)) as world:
        await trio.sleep(200)
        await world.settled()
    assert ticks == [60, 120, 180]


async def test_what_a_task_raises_leaves_the_block_with_the_timeline() -> None:
    broker = MemoryBroker()

    @broker.task
    async def fail() -> None:
        await broker.publish("x", "elsewhere")
        raise ValueError("the feed is gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_test(Runtime(broker)):
            await trio.sleep_forever()
    assert caught.group_contains(ValueError, match="the feed is gone")
    assert "message m1 → elsewhere" in timeline_of(caught.value)


@pytest.mark.parametrize("ordered_by", [None, "key"])
async def test_order_and_bounds_are_the_runtimes(ordered_by: Any, autojump_clock: MockClock) -> None:
    broker = RedisBroker("redis://nowhere.invalid") if ordered_by is None else MemoryBroker()
    running: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    @broker.subscriber("orders", concurrency=3, prefetch=5, ordered_by=ordered_by)
    async def handle(body: int, message: Message) -> None:
        key = str(message.key)
        running[key] += 1
        most[key] = max(most[key], running[key])
        await trio.sleep(1)
        running[key] -= 1

    app = Runtime(broker)
    async with open_test(app, plan=lambda world: world.broker(broker).refuse(for_=1)) as world:
        for number in range(10):
            await world.publish(number, to=handle, key="ab"[number % 2])
        await until(lambda: world.calls(handle))
        (subscription,) = app.status().brokers[0].subscriptions
        assert (subscription.unsettled, subscription.lag) == (5, 5)
        await world.settled()
        bodies = world.handled(handle)
        if ordered_by == "key":
            assert most == {"a": 1, "b": 1}
            assert [n for n in bodies if n % 2 == 0] == [0, 2, 4, 6, 8]
            assert [n for n in bodies if n % 2 == 1] == [1, 3, 5, 7, 9]
        else:
            assert sum(most.values()) > 2
            assert sorted(bodies) == list(range(10))


# ---- side by side ------------------------------------------------------------------------------------------------


async def test_two_worlds_stand_side_by_side_with_the_same_broker_and_router_in_both(
    autojump_clock: MockClock,
) -> None:
    broker, router = MemoryBroker(), Router()

    @router.subscriber("orders")
    @router.publisher("done")
    async def handle(body: str) -> str:
        return body + "!"

    one, two = Runtime(broker), Runtime(broker)
    one.include(router, broker)
    two.include(router, broker)
    async with open_test(one) as first, open_test(two) as second:
        first.broker(broker).disconnect(for_=30)
        await first.publish("x", to=handle)
        await second.publish("y", to=handle)
        await second.settled()
        assert trio.current_time() == 0
        assert second.handled(handle) == ["y"]
        assert first.handled(handle) == []
        await first.settled()
        assert first.handled(handle) == ["x"]
        assert first.published("done", str) == ["x!"]
        assert second.published("done", str) == ["y!"]


async def test_worlds_in_tasks_of_their_own_do_not_meet() -> None:
    broker = MemoryBroker()
    apps = [Runtime(broker) for _ in range(5)]
    seen: list[list[bytes]] = []

    async def use(app: Runtime, number: int) -> None:
        async with open_test(app) as world:
            await broker.publish(number, "numbers")
            await world.settled()
            seen.append([message.body for message in world.published("numbers")])

    async with trio.open_nursery() as nursery:
        for number, app in enumerate(apps):
            nursery.start_soon(use, app, number)
    assert sorted(seen) == [[b"%d" % number] for number in range(5)]


async def test_after_the_block_the_application_is_served_as_ever(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        await world.publish(Order(1), to="orders")
        await world.settled()
    async with memory.app.open() as run:
        assert run.identity != world.run.identity
        await memory.broker.publish(Order(2), "orders")
        await until(lambda: memory.billed == [1, 2])


# ---- what leaves the block ---------------------------------------------------------------------------------------


def timeline_of(error: BaseException) -> str:
    (note,) = error.__notes__
    assert note.startswith("The world's timeline, in seconds:\n")
    return note


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("1 == 2"),
        ValueError("no"),
        KeyboardInterrupt(),
        pytest.fail.Exception("failed"),
        pytest.skip.Exception("skipped"),
        ExceptionGroup("mine", [ValueError("a"), ValueError("b")]),
    ],
    ids=repr,
)
async def test_an_error_leaves_the_block_as_it_is_with_the_timeline_as_a_note(
    memory: Billing, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_test(memory.app) as world:
            await world.publish(Order(1), to="orders")
            await world.settled()
            raise error
    assert caught.value is error
    lines = timeline_of(error).splitlines()
    handler = f"{memory.bill.__module__}.{memory.bill.__qualname__}"
    assert [line.strip().split("  ", 1)[1] for line in lines if "m1" in line] == [
        "test: message m1 → orders",
        "memory: message m1 delivered from orders/default",
        f"{handler}: message m1 attempt 1",
        f"{handler}: message m1 returned",
        "memory: message m1 acknowledged",
    ]


async def test_an_error_tears_the_run_down_instead_of_draining_it(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        await trio.sleep(25)

    with pytest.raises(ValueError, match="no"):
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
            raise ValueError("no")
    assert trio.current_time() < 2
    (call,) = world.calls(handle)
    assert isinstance(call.error, trio.Cancelled)
    assert world.record.violations == []


async def test_a_cancel_from_outside_passes_and_is_no_error(memory: Billing, autojump_clock: MockClock) -> None:
    with trio.move_on_after(3) as scope:
        async with open_test(memory.app):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    with pytest.raises(trio.TooSlowError), trio.fail_after(3):
        async with open_test(memory.app):
            await trio.sleep_forever()


async def test_a_limit_inside_the_block_has_the_timeline(memory: Billing, autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        async with open_test(memory.app) as world:
            with trio.fail_after(3):
                world.broker(memory.broker).disconnect(for_=10)
                await world.publish(Order(1), to="orders")
                await world.settled()
    assert "connection cut" in timeline_of(caught.value)


async def test_errors_that_nobody_asked_for_are_raised_at_the_end(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        if message.attempt == 1:
            raise ValueError("unseen")

    with pytest.raises(ValueError, match="unseen") as caught:
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
    assert "raised ValueError: unseen" in timeline_of(caught.value)


async def test_an_error_of_the_test_goes_before_those_of_handlers() -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        raise ValueError("of the handler")

    with pytest.raises(AssertionError, match="of the test"):
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
            raise AssertionError("of the test")


async def test_a_broken_promise_is_raised_at_the_end(memory: Billing) -> None:
    with pytest.raises(PromiseBroken, match="it was broken") as caught:
        async with open_test(memory.app) as world:
            world.record.broke("it was broken")
    assert "PROMISE BROKEN: it was broken" in timeline_of(caught.value)


async def test_a_handler_that_could_not_publish_is_reported_like_any_other(autojump_clock: MockClock) -> None:
    broker, other = MemoryBroker(), MemoryBroker(name="other", publish_limit=1)

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        await other.publish(body, "elsewhere")

    async with open_test(Runtime(broker, other)) as world:
        world.broker(other).disconnect(for_=2)
        await world.publish("x", to=handle)
        errors = await world.settled(collect_errors=True)
        assert {type(error) for error in errors} == {BrokerUnavailable}
        assert world.handled(handle) == ["x"]
        assert {call.message.attempt for call in world.calls(handle)} == {1}


# ---- seeds and plans ---------------------------------------------------------------------------------------------


async def test_a_plan_is_in_force_before_the_application_starts(memory: Billing, autojump_clock: MockClock) -> None:
    def plan(world: World) -> None:
        world.broker(memory.broker).refuse(for_=5)

    async with open_test(memory.app, plan=plan) as world:
        assert not memory.app.status().ready
        await world.publish(Order(1), to="orders")
        await world.settled()
        assert 5 <= world.settlements[0].settled < 9
        assert memory.app.status().brokers[0].sessions == 1


async def test_a_seeded_world_has_its_own_time_of_day_and_its_own_ids(
    memory: Billing, autojump_clock: MockClock
) -> None:
    async with open_test(memory.app, seed=1) as world:
        await trio.sleep(10)
        assert await world.publish(Order(1), to="orders") == "m1"
        assert await memory.broker.publish(Order(1), "orders") == "m2"
        stamps = [message.timestamp for message in world.published("orders")]
        await world.settled()
    assert stamps == [1_704_067_210.0, 1_704_067_210.0]


async def test_an_application_that_stops_itself_before_it_connects_does_not_hold_up_the_block() -> None:
    @asynccontextmanager
    async def lifespan(app: Runtime) -> AsyncIterator[None]:
        app.stop("nothing to do")
        yield

    with trio.fail_after(5):
        async with open_test(Runtime(MemoryBroker(), lifespan=lifespan)) as world:
            await world.settled()
            assert world.run.phase is not Phase.RUNNING
