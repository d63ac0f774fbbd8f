"""Serving an app: once, again and again, as a task and as a block; how it starts and how it stops."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from runtime import ConfigurationError, LinkState, Phase, Run, Runtime, SessionLost, current_run

from .bench.leaks import Holdings
from .bench.waiting import until
from .fakes import FakeBroker


async def _handle(body: bytes) -> None: ...


def test_a_runtime_that_cannot_work_is_refused_when_it_is_made() -> None:
    broker = MemoryBroker()
    with pytest.raises(ConfigurationError, match="at least one broker"):
        Runtime()
    with pytest.raises(ConfigurationError, match="given to Runtime twice"):
        Runtime(broker, broker)
    with pytest.raises(ConfigurationError, match="grace is -1"):
        Runtime(broker, grace=-1)
    with pytest.raises(ConfigurationError, match="'memory://' is not a broker"):
        Runtime("memory://")  # type: ignore[arg-type]


async def test_serving_twice_at_once_raises_and_leaves_the_first_alone(autojump_clock: MockClock) -> None:
    app = Runtime(MemoryBroker())
    async with app.open() as run:
        with pytest.raises(RuntimeError, match="being served already"):
            await app.serve()
        assert run.phase is Phase.RUNNING


@pytest.mark.promise("P2")
async def test_an_app_can_be_served_a_hundred_times_and_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    broker, handled = MemoryBroker(), 0

    @broker.subscriber("numbers")
    async def handle(number: int) -> None:
        nonlocal handled
        handled += 1

    @broker.task
    async def tick() -> None:
        await trio.sleep_forever()

    app = Runtime(broker)
    before = None
    for round in range(1, 101):
        async with app.open():
            await broker.publish(round, "numbers")
            await until(lambda: handled == round)  # noqa: B023 - called in this round
        before = before or Holdings.now()  # the first round may import and cache
    gc.collect()
    assert Holdings.now() == before
    assert handled == 100


@pytest.mark.promise("P4")
@pytest.mark.parametrize("trouble", ["refuses", "is silent"])
async def test_start_does_not_wait_for_a_broker(autojump_clock: MockClock, trouble: str) -> None:
    broker = FakeBroker()
    broker.subscriber("orders")(_handle)
    if trouble == "refuses":
        broker.unreachable = SessionLost("nobody there")
    else:
        broker.stuck.add("open")
    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        run: Run = await nursery.start(app.serve)
        assert trio.current_time() == began
        assert not app.status().ready
        await trio.sleep(30)
        assert app.status().broker("fake").state is not LinkState.CONNECTED
        broker.unreachable = None
        broker.free("open")
        await until(lambda: app.status().ready)
        run.stop()


async def test_stop_is_sync_idempotent_and_harmless_without_a_run(autojump_clock: MockClock) -> None:
    app = Runtime(MemoryBroker())
    app.stop("nothing to stop")
    assert app.status().phase is Phase.IDLE
    async with trio.open_nursery() as nursery:
        run: Run = await nursery.start(app.serve)
        app.stop("first")
        app.stop("second")
        run.stop("third")
        assert run.status().phase is Phase.DRAINING
        assert run.status().reason == "first"
    assert run.phase is Phase.CLOSED
    assert (run.report.reason, run.report.exit_status) == ("first", 0)
    assert app.status().phase is Phase.IDLE


@pytest.mark.promise("P9")
async def test_leaving_an_open_block_drains(autojump_clock: MockClock) -> None:
    broker, done = MemoryBroker(), []

    @broker.subscriber("numbers")
    async def handle(number: int) -> None:
        await trio.sleep(5)
        done.append(number)

    app = Runtime(broker)
    async with app.open() as run:
        await broker.publish(1, "numbers")
        await until(run.unfinished)
    assert done == [1]
    assert run.report.exit_status == 0


async def test_a_block_that_raises_tears_down_and_its_own_error_comes_out(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("numbers")
    async def handle(number: int) -> None:
        await trio.sleep_forever()

    app = Runtime(broker)
    with pytest.raises(KeyError, match="mine") as caught:  # a group would not match
        async with app.open() as run:
            await broker.publish(1, "numbers")
            await until(run.unfinished)
            began = trio.current_time()
            raise KeyError("mine")
    assert type(caught.value) is KeyError
    assert trio.current_time() - began <= 1


async def test_a_start_that_is_refused_comes_out_of_open_as_itself() -> None:
    broker = MemoryBroker()
    broker.publisher("done")(_handle)
    with pytest.raises(ConfigurationError, match="nothing subscribes"):
        async with Runtime(broker).open():
            raise AssertionError("unreachable")


@pytest.mark.promise("P9")
async def test_the_lifespan_is_the_outermost_block_and_what_it_yields_is_the_state(autojump_clock: MockClock) -> None:
    broker, story = FakeBroker(), []

    @asynccontextmanager
    async def lifespan(served: Runtime) -> AsyncIterator[str]:
        assert served is app
        story.append(f"begin, {len(broker.events)} events")
        try:
            yield "the state"
        finally:
            story.append(f"end, after {broker.events[-1][0]}")

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        story.append(current_run().state)

    app = Runtime(broker, lifespan=lifespan)
    async with app.open() as run:
        assert run.state == "the state"
        broker.put("x")
        await until(lambda: broker.settlements)
    assert story == ["begin, 0 events", "the state", "end, after disconnect"]


@pytest.mark.promise("P2")
async def test_stop_while_the_lifespan_hangs_in_its_start_ends_at_the_grace(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def hanging(app: Runtime) -> AsyncIterator[None]:
        if app.grace:
            await trio.sleep_forever()
        yield

    app = Runtime(MemoryBroker(), lifespan=hanging, grace=7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.serve)
        await trio.sleep(3)
        began = trio.current_time()
        app.stop()
    assert trio.current_time() - began == pytest.approx(7)


@pytest.mark.promise("P2")
async def test_a_lifespan_that_hangs_in_its_end_is_cut_off(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def hanging(app: Runtime) -> AsyncIterator[None]:
        yield
        await trio.sleep_forever()

    began = trio.current_time()
    async with Runtime(MemoryBroker(), lifespan=hanging, grace=7).open():
        pass
    assert trio.current_time() - began <= 7 + 2


async def test_a_lifespan_that_raises_fails_the_run_with_that_error() -> None:
    @asynccontextmanager
    async def failing(app: Runtime) -> AsyncIterator[None]:
        if app.grace:
            raise OSError("no database")
        yield

    app = Runtime(MemoryBroker(), lifespan=failing)
    with pytest.raises(OSError, match="no database"):
        await app.serve()
    assert app.status().phase is Phase.IDLE


async def test_a_user_task_that_raises_fails_the_run_loudly(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.task
    async def tick() -> None:
        await trio.sleep(1)
        raise ArithmeticError("the clock broke")

    with pytest.RaisesGroup(ArithmeticError, flatten_subgroups=True):
        await Runtime(broker).serve()
