"""The sweep itself: it counts every point, says how to come back to one, and finds cores that are broken on purpose."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn

import pytest
import trio

from adapters.memory import MemoryBroker
from runtime import Runtime, dispatch, settlement, subscription
from runtime.adapter import Receiver
from runtime.delivery import ACK, Delivery, Outcome
from runtime.dispatch import Dispatch
from runtime.services import Services
from runtime.settlement import Settler
from runtime.testing import SweepFailed, World, open_test, sweep

from .scenarios import BROKERS, drain, handle


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def _fails(scenario: Callable[[], Awaitable[None]], problem: str) -> None:
    with pytest.raises(SweepFailed) as failed:
        sweep(scenario, seeds=[0, 1])
    assert any(problem in found for violation in failed.value.report.violations for found in violation.problems)


# ---- broken cores ----------------------------------------------------------------------------------------------------


def test_it_finds_an_await_between_receive_and_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    async def poll(receiver: Receiver, dispatch: Dispatch) -> NoReturn:
        while True:
            room = await dispatch.room()
            deliveries = await receiver.receive(room)
            await trio.lowlevel.checkpoint()
            dispatch.accept(deliveries)

    monkeypatch.setattr(subscription, "poll", poll)
    _fails(handle(BROKERS["memory"], []), "delivered and never settled")


def test_it_finds_an_unshielded_release(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Dispatch._own

    async def unshielded(self: Dispatch, delivery: Delivery, ticket: dispatch._Ticket) -> None:
        """The outcome is kept, and handed over in a step of its own that a cancel can reach."""
        kept: list[tuple[Delivery, Outcome]] = []
        settler = _Keeping(kept)
        self._settler, real = settler, self._settler
        try:
            await own(self, delivery, ticket)
        finally:
            self._settler = real
            await trio.lowlevel.checkpoint()
            for item, outcome in kept:
                real.put(item, outcome, self._done)

    monkeypatch.setattr(Dispatch, "_own", unshielded)
    _fails(drain_of_one(), "delivered and never settled")


class _Keeping(Settler):
    def __init__(self, kept: list[tuple[Delivery, Outcome]]) -> None:
        self._kept = kept

    def put(self, delivery: Delivery, outcome: Outcome, done: object) -> None:
        self._kept.append((delivery, outcome))


def drain_of_one() -> Callable[[], Awaitable[None]]:
    async def scenario() -> None:
        broker = MemoryBroker()

        @broker.subscriber("orders", concurrency=1, prefetch=1)
        async def order(number: int) -> None:
            await trio.sleep(1)

        async with open_test(Runtime(broker)) as world:
            await world.publish(1, to=order)
            await world.settled()

    return scenario


def test_it_finds_settlements_that_a_cancel_can_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_soon(self: Services, service: Callable[..., Awaitable[object]], *args: object, name: str) -> None:
        self._nursery.start_soon(service, *args, name=name)

    monkeypatch.setattr(Services, "start_soon", start_soon)
    _fails(handle(BROKERS["memory"], []), "delivered and never settled")


def test_it_finds_a_settlement_before_the_handler_has_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    handle_in_full = Dispatch._handle

    async def hasty(self: Dispatch, delivery: Delivery) -> Outcome:
        assert self._nursery is not None
        self._nursery.start_soon(handle_in_full, self, delivery)
        await trio.lowlevel.checkpoint()
        return ACK

    monkeypatch.setattr(Dispatch, "_handle", hasty)
    _fails(handle(BROKERS["memory"], []), "settled while its handler ran")


def test_it_finds_an_ack_for_a_handler_that_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "INTERRUPTED", ACK)
    _fails(drain(BROKERS["memory"], []), "acknowledged although its handler did not return")


def test_it_finds_a_second_settlement(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Settler.put

    def twice(self: Settler, delivery: Delivery, outcome: Outcome, done: Callable[..., None]) -> None:
        put(self, delivery, outcome, done)
        self._queue.put(settlement._Item(delivery, outcome, done))

    monkeypatch.setattr(Settler, "put", twice)
    _fails(handle(BROKERS["memory"], []), "settled twice")


def test_it_finds_a_drain_that_takes_too_long_under_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    contain = Dispatch._handle

    async def stubborn(self: Dispatch, delivery: Delivery) -> Outcome:
        try:
            return await contain(self, delivery)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

    monkeypatch.setattr(Dispatch, "_handle", stubborn)
    _fails(drain_of_one(), "s to end after the cancel")


# ---- what it says ----------------------------------------------------------------------------------------------------


def _three_steps() -> Callable[[], Awaitable[None]]:
    async def scenario() -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    return scenario


def test_it_counts_every_point_for_every_seed() -> None:
    # The scenario runs on from where the sweep is armed, so each of its checkpoints is one point.
    assert str(sweep(_three_steps(), seeds=[7])).endswith(": 3 points, 0 violations")
    assert sweep(_three_steps(), seeds=[7, 8]).points == 6


def test_each_run_has_a_clock_of_its_own_that_costs_nothing() -> None:
    times: list[float] = []

    async def scenario() -> None:
        times.append(trio.current_time())
        await trio.sleep(3600)

    assert sweep(scenario, seeds=[0]).points == 1
    assert times == [0.0, 0.0, 0.0]


def test_a_violation_names_the_seed_and_the_point_that_show_it_again() -> None:
    async def scenario() -> None:
        await trio.lowlevel.checkpoint()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            raise ValueError("not now") from None

    with pytest.raises(SweepFailed) as failed:
        sweep(scenario, seeds=[0])
    (violation,) = failed.value.report.violations
    assert violation.point == 2
    assert "raised ValueError: not now" in violation.problems[0]
    assert "seeds=[0], points=[2])" in str(failed.value)
    with pytest.raises(SweepFailed, match="1 points, 1 violations"):
        sweep(scenario, seeds=[0], points=[violation.point])


def test_a_point_is_the_same_place_each_time() -> None:
    def timelines() -> Iterator[str]:
        for point in (20, 40, 60):
            seen: list[World] = []
            sweep(handle(BROKERS["memory"], []), seen.append, seeds=[5], points=[point])
            yield seen[0].timeline()

    first = list(timelines())
    assert len(set(first)) == 3
    assert all(list(timelines()) == first for _ in range(5))


def test_the_check_sees_each_world_after_each_run() -> None:
    seen: list[World] = []

    def check(world: World) -> None:
        seen.append(world)
        assert not world.published("done") or world.settlements, "done without an order"

    report = sweep(drain_of_one(), check, seeds=[0])
    assert len(seen) == report.points + 1


def test_a_check_that_fails_is_a_violation() -> None:
    def check(world: World) -> None:
        assert world.settlements, "nothing was settled"

    with pytest.raises(SweepFailed, match="check: AssertionError: nothing was settled"):
        sweep(drain_of_one(), check, seeds=[0])


def test_a_scenario_that_fails_without_any_cancel_says_so() -> None:
    async def scenario() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("broken from the start")

    with pytest.raises(SweepFailed, match=r"points=\[None\]"):
        sweep(scenario, seeds=[0], points=[None])


def test_a_task_left_behind_is_named() -> None:
    async def forever() -> None:
        await trio.sleep_forever()

    async def scenario() -> None:
        trio.lowlevel.spawn_system_task(forever, name="a zombie")
        await trio.lowlevel.checkpoint()

    with pytest.raises(SweepFailed, match="left a zombie"):
        sweep(scenario, seeds=[0])


def test_a_scenario_must_be_an_async_function() -> None:
    with pytest.raises(TypeError, match="must be an async function"):
        sweep(lambda: None)  # type: ignore[arg-type, return-value]


def test_the_sweep_restores_the_scheduler() -> None:
    generator = sys.modules["trio._core._run"]._r
    before = generator.getstate()
    sweep(_three_steps(), seeds=[1])
    assert generator.getstate() == before


def test_the_unbroken_core_passes_the_scenarios_of_this_file() -> None:
    assert not sweep(drain_of_one()).violations
