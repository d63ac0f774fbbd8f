"""The link: waiters get the session there is, and old news does no harm."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime import LinkState, SessionLost
from runtime.link import Link

from .fakes import FakeBroker, FakeSession


def _session() -> FakeSession:
    return FakeSession(FakeBroker())


async def test_all_who_wait_get_the_session_that_comes_up(autojump_clock: MockClock) -> None:
    link, session, got = Link(), _session(), []

    async def wait() -> None:
        got.append(await link.session())

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        link.no_session(LinkState.DOWN, "nobody there")
        await wait_all_tasks_blocked()
        assert (got, link.state, link.error, link.is_up) == ([], LinkState.DOWN, "nobody there", False)
        link.up(session, trio.CancelScope())
    assert got == [session] * 3
    assert (link.state, link.error, link.is_up, link.sessions) == (LinkState.CONNECTED, None, True, 1)


async def test_a_waiter_is_not_handed_a_session_that_was_lost_before_it_ran(autojump_clock: MockClock) -> None:
    link, first, second = Link(), _session(), _session()
    got = []

    async def wait() -> None:
        got.append(await link.session())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        link.up(first, trio.CancelScope())
        link.lost(first, SessionLost("at once"))
        await wait_all_tasks_blocked()
        assert got == []
        link.up(second, trio.CancelScope())
    assert got == [second]


async def test_a_loss_ends_the_sessions_scope_and_is_told_once() -> None:
    link, session, scope = Link(), _session(), trio.CancelScope()
    link.up(session, scope)
    loss = SessionLost("reset by peer")
    link.lost(session, loss)
    link.lost(session, SessionLost("heard it already"))
    assert scope.cancel_called
    assert (link.take_loss(), link.take_loss()) == (loss, None)


async def test_news_about_an_old_session_does_not_touch_the_new_one() -> None:
    link, old, new, scope = Link(), _session(), _session(), trio.CancelScope()
    link.up(old, trio.CancelScope())
    link.up(new, scope)
    link.lost(old, SessionLost("reset by peer"))
    assert link.is_up
    assert not scope.cancel_called


def test_without_a_session_a_probe_says_nothing() -> None:
    link = Link()
    link.no_session(LinkState.DOWN, "nobody there")
    link.degraded("late")
    assert (link.state, link.error) == (LinkState.DOWN, "nobody there")
    link.healthy()
    assert link.state is LinkState.DOWN
