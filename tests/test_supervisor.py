"""The supervisor: it never gives up, never runs hot, says each trouble once, and leaves other brokers in peace."""

from __future__ import annotations

import itertools
import logging

import pytest
import trio
from trio.testing import MockClock

from runtime import LinkState, Refused, Runtime, SessionLost
from runtime.delivery import Ack

from .bench.waiting import until
from .fakes import FakeBroker

pytestmark = pytest.mark.promise("P8")


def _waits(broker: FakeBroker) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(broker.times("connect"))]


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_wait_between_attempts_grows_to_a_cap_and_is_jittered(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.unreachable = OSError(111, "Connection refused")
    app = Runtime(broker)
    async with app.open():
        await trio.sleep(3600)
        assert app.status().broker("fake").attempts == len(broker.times("connect"))
    waits = _waits(broker)
    for number, wait in enumerate(waits[:5]):
        assert 0.05 * 2**number <= wait <= 0.1 * 2**number + 1e-6
    assert all(2 <= wait <= 4 + 1e-6 for wait in waits[6:])
    assert len({round(wait, 6) for wait in waits[6:]}) > len(waits) / 2
    assert len(waits) > 1000


@pytest.mark.parametrize("error", [Refused("WRONGPASS"), ZeroDivisionError("a bug in the adapter")])
async def test_after_a_hopeless_error_at_least_a_second_passes(autojump_clock: MockClock, error: Exception) -> None:
    broker = FakeBroker()
    broker.unreachable = error
    async with Runtime(broker).open():
        await trio.sleep(600)
    assert len(_waits(broker)) > 100
    assert min(_waits(broker)) >= 1


async def test_each_kind_of_trouble_is_one_line_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker()
    app = Runtime(broker)
    async with app.open():
        for error in (OSError(111, "Connection refused"), Refused("WRONGPASS")):
            broker.unreachable = error
            await trio.sleep(300)
        assert app.status().broker("fake").error == "WRONGPASS"
        broker.unreachable = None
        await until(lambda: app.status().ready)
        assert app.status().broker("fake").error is None
    assert _lines(caplog) == [
        "fake: not connected: Connection refused; trying again until it works",
        "fake: not connected: WRONGPASS; trying again until it works",
    ]


async def test_a_session_that_is_lost_again_and_again_is_not_opened_hot_nor_logged_each_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None: ...

    async def vandal() -> None:
        while True:
            broker.lose("reset by peer")
            await trio.sleep(0.01)

    async with Runtime(broker).open(), trio.open_nursery() as nursery:
        nursery.start_soon(vandal)
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    assert 30 < len(broker.sessions) < 120
    assert _lines(caplog) == ["fake: lost: reset by peer; trying again until it works"]


async def test_a_stable_session_that_is_lost_is_replaced_quickly(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.unreachable = OSError(111, "Connection refused")
    app = Runtime(broker)
    async with app.open():
        await trio.sleep(60)
        broker.unreachable = None
        await until(lambda: app.status().ready)
        await trio.sleep(60)
        lost = trio.current_time()
        broker.stuck.add("publish")
        with trio.move_on_after(0.001):
            await broker.publish(b"x", "done")
        broker.lose()
        await until(lambda: len(broker.sessions) == 2)
        assert trio.current_time() - lost < 0.2


@pytest.mark.promise("P1")
async def test_trouble_of_one_broker_changes_nothing_for_another(autojump_clock: MockClock) -> None:
    sick, well = FakeBroker("sick"), FakeBroker("well")

    @well.subscriber("orders")
    async def handle(body: bytes) -> None: ...

    app = Runtime(sick, well)
    async with app.open():
        for trouble in (Refused("WRONGPASS"), OSError(111, "Connection refused"), SessionLost("gone")):
            sick.unreachable = trouble
            sick.lose()
            began = trio.current_time()
            well.put(f"during {trouble}")
            await well.publish(b"x", "done")
            await until(lambda: well.settlements)
            well.settlements.clear()
            assert trio.current_time() - began < 0.1
            await trio.sleep(30)
            assert not app.status().broker("sick").ready
            assert app.status().broker("well").ready
        assert len(well.sessions) == 1


async def test_a_session_that_cannot_be_opened_for_long_is_shown_as_connecting(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.stuck.add("open")
    app = Runtime(broker)
    async with app.open():
        await trio.sleep(60)
        assert app.status().broker("fake").state is LinkState.CONNECTING
        broker.free("open")
        await until(lambda: app.status().ready)


async def test_handling_goes_on_after_every_lost_session(autojump_clock: MockClock) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None: ...

    async with Runtime(broker).open():
        for number in range(10):
            broker.put(str(number))
            await until(lambda: len(broker.settled(Ack)) == number + 1)  # noqa: B023 - called in this round
            broker.lose()
    assert broker.settled(Ack) == [str(number) for number in range(10)]
