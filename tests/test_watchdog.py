"""The watchdog: what a late answer shows, what a missing one ends, and that no poll can hold it up."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from runtime import LinkState, OutcomeUnknown, Runtime

from .bench.waiting import until
from .fakes import FakeBroker

pytestmark = pytest.mark.promise("P3")


async def _handle(body: bytes) -> None: ...


async def test_a_probe_answered_late_shows_as_degraded_and_ends_nothing(autojump_clock: MockClock) -> None:
    broker = FakeBroker(probe_interval=5)
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        broker.stuck.add("probe")
        await trio.sleep(7)
        assert app.status().broker("fake").state is LinkState.CONNECTED  # asked at 5, has time until 7.5
        await trio.sleep(2)
        status = app.status().broker("fake")
        assert (status.state, status.error, status.ready) == (
            LinkState.DEGRADED,
            "a probe has had no answer for 2.5 s",
            False,
        )
        broker.free("probe")
        await until(lambda: app.status().ready)
        assert app.status().broker("fake").error is None
        await broker.publish(b"x", "done")
        assert len(broker.sessions) == 1


@pytest.mark.promise("P8")
async def test_a_probe_not_answered_for_an_interval_ends_the_session_and_a_new_one_is_opened(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(probe_interval=5)
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        broker.stuck.add("probe")
        await until(lambda: broker.times("disconnect"), within=60)
        # Asked after one interval, given up on after another.
        assert broker.times("disconnect") == [pytest.approx(10, abs=0.1)]
        broker.free("probe")
        await until(lambda: app.status().ready)
        assert len(broker.sessions) == 2
        assert caplog.text.count("fake: lost: a probe had no answer for 5 s") == 1


async def test_the_probe_that_is_out_is_not_asked_again(autojump_clock: MockClock) -> None:
    broker = FakeBroker(probe_interval=5)
    async with Runtime(broker).open():
        broker.stuck.add("probe")
        await trio.sleep(9)
        assert len(broker.times("probe")) == 1


@pytest.mark.parametrize("stuck", ["receive", "settle", "publish"])
async def test_what_blocks_for_ever_beside_it_does_not_delay_the_watchdog(
    autojump_clock: MockClock, stuck: str
) -> None:
    broker = FakeBroker(probe_interval=5, publish_limit=1000)
    broker.subscriber("orders")(_handle)
    broker.put("a")
    broker.stuck.add(stuck)

    @broker.task
    async def tick() -> None:
        with suppress(OutcomeUnknown):
            await broker.publish(b"x", "done")

    app = Runtime(broker, grace=1)
    async with app.open():
        await trio.sleep(28)
        assert broker.times("probe") == [5, 10, 15, 20, 25]
        broker.stuck.add("probe")
        await until(lambda: len(broker.sessions) == 2, within=20)


async def test_an_answer_that_names_a_trouble_shows_it_and_ends_nothing(autojump_clock: MockClock) -> None:
    broker = FakeBroker(probe_interval=5)
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        broker.complaint = "no server can be reached"
        await trio.sleep(6)
        status = app.status().broker("fake")
        assert (status.state, status.error, status.ready) == (LinkState.DEGRADED, "no server can be reached", False)
        await trio.sleep(60)
        assert len(broker.sessions) == 1
        broker.complaint = None
        await trio.sleep(5)
        status = app.status().broker("fake")
        assert (status.state, status.error, status.ready) == (LinkState.CONNECTED, None, True)
