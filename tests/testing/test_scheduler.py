"""A seed replays a run, scheduler included, and leaves no trace."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import Message, Runtime
from runtime.testing import NotReplayable, open_test
from runtime.testing.scheduler import seeded

scheduler: Any = trio._core._run


async def order_of_steps(tasks: int = 8) -> list[int]:
    """The order in which Trio runs tasks that are ready together."""
    order: list[int] = []

    async def step(number: int) -> None:
        for _ in range(3):
            order.append(number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(step, number)
    return order


async def busy_timeline(seed: int | None) -> str:
    """A run with all that chance has a hand in: concurrent handlers, failures, jittered back-off, two brokers."""
    memory, redis = MemoryBroker(), RedisBroker("redis://nowhere.invalid")

    @memory.subscriber("orders")
    @redis.publisher("invoices")
    async def bill(body: int, message: Message) -> int:
        await trio.lowlevel.checkpoint()
        if body % 3 == message.attempt:
            raise ValueError(body)
        return body

    @redis.subscriber("invoices", concurrency=3)
    async def file(body: int) -> None:
        await trio.lowlevel.checkpoint()

    async with open_test(Runtime(memory, redis), seed=seed, collect_errors=True) as world:
        world.broker(memory).disconnect(at=0.1, for_=3)
        world.broker(redis).disconnect(at=1, for_=5)
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(world.publish, number, "orders")
        await world.settled()
        return world.timeline()


def replay(seed: int | None) -> str:
    return trio.run(busy_timeline, seed, clock=MockClock(autojump_threshold=0))


def test_the_same_seed_replays_the_same_timeline_twenty_times() -> None:
    assert len({replay(7) for _ in range(20)}) == 1


def test_another_seed_is_another_run() -> None:
    assert len({replay(seed) for seed in range(5)}) == 5


def test_no_seed_is_another_run_each_time() -> None:
    assert len({replay(None) for _ in range(5)}) == 5


def test_a_seed_replays_in_another_process_whatever_its_hashes_and_whatever_ran_before() -> None:
    root = Path(__file__).parents[2]
    script = "from tests.testing.test_scheduler import *; print(hashlib.md5(replay(7).encode()).hexdigest())"
    trio.run(order_of_steps)
    expected = hashlib.md5(replay(7).encode()).hexdigest()
    for hash_seed in "0", "1", "2":
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stdout.strip() == expected


async def test_a_seeded_world_replays_among_the_tasks_of_a_test() -> None:
    async def order() -> list[int]:
        async with open_test(Runtime(MemoryBroker()), seed=3):
            return await order_of_steps()

    first = await order()
    assert [await order() for _ in range(10)] == [first] * 10


async def test_the_order_inside_follows_from_the_seed() -> None:
    orders = []
    for seed in (1, 1, 2):
        with seeded(seed):
            orders.append(await order_of_steps())
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("failing", [False, True])
def test_what_was_before_comes_back(failing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", False)  # pytest-trio may have set it
    state, sorts = scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    try:
        with seeded(1):
            scheduler._r.random()
            assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING
            with seeded(2):
                scheduler._r.random()
            if failing:
                raise ValueError
    except ValueError:
        pass
    assert scheduler._r.getstate() == state
    assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING is sorts


def test_a_seeded_world_within_another_takes_nothing_from_it() -> None:
    generator = random.Random(1)
    expected = [generator.random() for _ in range(2)]
    with seeded(1):
        first = scheduler._r.random()
        with seeded(2):
            scheduler._r.random()
        second = scheduler._r.random()
    assert [first, second] == expected


@pytest.mark.parametrize("missing", ["_r", "_ALLOW_DETERMINISTIC_SCHEDULING"])
def test_a_trio_that_keeps_its_generator_elsewhere_is_refused_by_name(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(scheduler, missing)
    with pytest.raises(NotReplayable, match=rf"trio {trio.__version__} has no scheduler that can be seeded: leave out"):
        with seeded(1):
            pytest.fail("it began")
