"""One subscription in trouble: it fails alone, tries again with patience, and says so once."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio
from trio.testing import MockClock

from runtime import LinkState, Refused, Runtime, SubscriptionState
from runtime.delivery import Ack

from .bench.waiting import until
from .fakes import FakeBroker

pytestmark = pytest.mark.promise("P8")


def _serving(*places: str) -> tuple[FakeBroker, Runtime]:
    broker = FakeBroker()
    for place in places:

        @broker.subscriber(place)
        async def handle(body: bytes) -> None: ...

    return broker, Runtime(broker)


def _states(app: Runtime) -> dict[str, SubscriptionState]:
    return {s.source: s.state for s in app.status().broker("fake").subscriptions}


async def test_a_failing_subscription_does_not_disturb_its_siblings_nor_the_session(
    autojump_clock: MockClock,
) -> None:
    broker, app = _serving("orders", "bad")
    broker.broken["bad"] = Refused("WRONGTYPE")
    async with app.open():
        await trio.sleep(60)
        status = app.status().broker("fake")
        assert _states(app) == {"orders": SubscriptionState.RUNNING, "bad": SubscriptionState.FAILING}
        assert [s.error for s in status.subscriptions] == [None, "WRONGTYPE"]
        assert (status.state, status.ready, status.sessions) == (LinkState.CONNECTED, False, 1)
        assert len(broker.times("open orders")) == 1
        began = trio.current_time()
        broker.put("a")
        await until(lambda: broker.settled(Ack) == ["a"])
        assert trio.current_time() - began < 0.1
        broker.broken.clear()
        broker.put("b", to="bad")
        await until(lambda: broker.settled(Ack) == ["a", "b"])
        assert app.status().ready


@pytest.mark.parametrize("error", [Refused("WRONGTYPE"), KeyError("a bug in the adapter")])
async def test_a_hopeless_source_is_opened_at_most_once_a_second_and_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    broker, app = _serving("orders")
    broker.broken["orders"] = error
    async with app.open():
        await trio.sleep(600)
        broker.broken.clear()
        await until(lambda: app.status().ready)
    waits = [later - earlier for earlier, later in itertools.pairwise(broker.times("open orders"))]
    assert len(waits) > 100
    assert 1 <= min(waits) <= max(waits) <= 4 + 1e-6
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert "fake orders: consuming again" not in caplog.text or caplog.text.count("consuming again") == 1


async def test_a_subscription_waits_while_there_is_no_session_and_stops_with_the_run(
    autojump_clock: MockClock,
) -> None:
    broker, app = _serving("orders")
    broker.stuck.add("open")
    async with app.open() as run:
        await trio.sleep(1)
        assert _states(app) == {"orders": SubscriptionState.WAITING}
        broker.free("open")
        await until(lambda: _states(app) == {"orders": SubscriptionState.RUNNING})
        broker.stuck.add("open")
        broker.lose()
        await trio.sleep(1)
        assert _states(app) == {"orders": SubscriptionState.WAITING}
        broker.free("open")
        await until(lambda: app.status().ready)
        run.stop()
        await until(lambda: run.status().broker("fake").subscriptions[0].state is SubscriptionState.STOPPED)


async def test_a_source_that_fails_while_it_is_read_is_opened_again(autojump_clock: MockClock) -> None:
    broker, app = _serving("orders")
    async with app.open():
        await until(lambda: app.status().ready)
        session = broker.sessions[0]
        receive, session.receive = session.receive, _raise  # type: ignore[method-assign, assignment]
        broker.put("a")
        await until(lambda: broker.settled(Ack) == ["a"])
        broker.put("b")
        await until(lambda: _states(app) == {"orders": SubscriptionState.FAILING})
        session.receive = receive  # type: ignore[method-assign]
        await until(lambda: broker.settled(Ack) == ["a", "b"])
        assert len(broker.sessions) == 1


async def _raise(*args: object) -> None:
    raise Refused("NOGROUP")
