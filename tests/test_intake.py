"""The intake: one word stops everything that brings work, and its end can be waited for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime.intake import Intake


@pytest.mark.promise("P9")
async def test_closing_cancels_everything_inside_and_nothing_else() -> None:
    intake, ended = Intake(), []

    async def bring(name: str) -> None:
        with intake.scope():
            await trio.Event().wait()
        ended.append(name)

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        outer.start_soon(bring, "one")
        inner.start_soon(bring, "two")
        await wait_all_tasks_blocked()
        intake.close()
        with trio.fail_after(1):
            await intake.closed()
        await trio.lowlevel.checkpoint()
    assert sorted(ended) == ["one", "two"]


async def test_who_enters_after_the_close_is_cancelled_at_the_first_checkpoint() -> None:
    intake = Intake()
    intake.close()
    reached = []
    with intake.scope() as scope:
        reached.append("before")
        await trio.lowlevel.checkpoint()
        reached.append("after")
    assert reached == ["before"]
    assert scope.cancelled_caught


async def test_it_is_closed_only_when_the_last_has_left(autojump_clock: MockClock) -> None:
    intake = Intake()

    async def linger() -> None:
        with intake.scope():
            with trio.CancelScope(shield=True):
                await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger)
        await wait_all_tasks_blocked()
        intake.close()
        before = trio.current_time()
        await intake.closed()
        assert trio.current_time() - before == pytest.approx(3)


async def test_an_empty_intake_is_not_closed_before_it_is_told_and_then_at_once() -> None:
    intake = Intake()
    with intake.scope():
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.closing)
        nursery.start_soon(intake.closed)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        assert not intake.is_closing
        intake.close()
        intake.close()
        assert intake.is_closing


async def test_an_error_inside_comes_out_and_the_intake_can_still_close() -> None:
    intake = Intake()
    with pytest.raises(ValueError, match="inside"):
        with intake.scope():
            raise ValueError("inside")
    intake.close()
    with trio.fail_after(1):
        await intake.closed()
