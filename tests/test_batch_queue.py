"""The queue whose reader takes everything at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.batch_queue import BatchQueue


def filled(*items: int) -> BatchQueue[int]:
    queue: BatchQueue[int] = BatchQueue()
    for item in items:
        queue.put(item)
    return queue


def test_all_that_is_queued_comes_in_one_batch_in_order() -> None:
    queue = filled(3, 1, 2)
    assert queue.take(10) == [3, 1, 2]
    assert queue.take(10) == []


def test_a_batch_is_no_larger_than_asked_for_and_the_rest_stays_in_order() -> None:
    queue = filled(1, 2, 3, 4, 5)
    assert [queue.take(2), queue.take(2), queue.take(2)] == [[1, 2], [3, 4], [5]]


def test_what_is_put_back_comes_first_again_in_its_order() -> None:
    queue = filled(1, 2, 3)
    batch = queue.take(2)
    queue.put(4)
    queue.put_back(batch)
    queue.done(len(batch))
    assert len(queue) == 4
    assert queue.take(10) == [1, 2, 3, 4]


def test_an_item_counts_until_it_is_done_and_not_only_until_it_is_taken() -> None:
    queue = filled(1, 2, 3)
    queue.take(2)
    assert len(queue) == 3
    queue.done(2)
    assert len(queue) == 1


def test_a_discarded_item_leaves_from_the_middle_and_one_that_is_out_stays_out() -> None:
    queue = filled(1, 2, 3)
    queue.discard(2)
    assert queue.take(10) == [1, 3]
    queue.discard(1)
    queue.discard(99)
    assert len(queue) == 2


async def test_the_reader_sleeps_until_something_is_put(autojump_clock: MockClock) -> None:
    queue = filled()
    batches = []

    async def read() -> None:
        await queue.wait()
        batches.append((trio.current_time(), queue.take(10)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(5)
        queue.put(1)
        queue.put(2)
    ((when, batch),) = batches
    assert when == pytest.approx(autojump_clock.current_time())
    assert batch == [1, 2]


async def test_an_item_discarded_before_the_reader_woke_does_not_wake_it() -> None:
    queue = filled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.wait)
        await wait_all_tasks_blocked()
        queue.put(1)
        queue.discard(1)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        queue.put(2)


async def test_a_cancelled_reader_loses_nothing() -> None:
    queue = filled()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.wait)
            await wait_all_tasks_blocked()
            queue.put(1)
            scope.cancel()
    with trio.fail_after(1):
        await queue.wait()
    assert queue.take(10) == [1]


def _finish(queue: BatchQueue[int]) -> None:
    queue.done(1)


def _give_up(queue: BatchQueue[int]) -> None:
    queue.put_back([1])
    queue.done(1)
    queue.discard(1)


@pytest.mark.promise("P9")
@pytest.mark.parametrize("end", [_finish, _give_up])
async def test_it_is_idle_when_nothing_is_queued_and_nothing_is_out(end: Callable[[BatchQueue[int]], None]) -> None:
    queue = filled(1)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(queue.idle)
        await wait_all_tasks_blocked()
        queue.take(1)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        end(queue)
        with trio.fail_after(1):
            await queue.idle()


async def test_one_who_waits_for_idle_waits_for_what_came_in_between_too() -> None:
    queue = filled(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.idle)
        await wait_all_tasks_blocked()
        queue.take(1)
        queue.done(1)
        queue.put(2)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        queue.discard(2)
