"""Faults: when they begin, when they end, what they do to an application, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import Broker, BrokerUnavailable, ConfigurationError, Message, OutcomeUnknown, Runtime
from runtime.delivery import Ack, Release
from runtime.link import LinkState
from runtime.testing import Line, World, open_test

from ..bench.waiting import until
from .brokers import LastingBroker, StrictBroker

Fault = Callable[[Line], None]


class Shop:
    """A broker with one handler, which takes `seconds`."""

    def __init__(self, broker: Broker[Any], *, seconds: float = 0.0) -> None:
        self.broker = broker
        self.app = Runtime(broker)
        self.bodies: list[str] = []
        self.attempts: list[int] = []

        @broker.subscriber("orders")
        async def handle(body: str, message: Message) -> None:
            self.bodies.append(body)
            self.attempts.append(message.attempt)
            await trio.sleep(seconds)

        self.handle = handle

    def state(self) -> LinkState:
        return self.app.status().brokers[0].state


def events(world: World, *words: str) -> list[tuple[float, str]]:
    """When what of the timeline that has one of `words` in it."""
    lines = [line.strip().split("  ", 1) for line in world.timeline().splitlines()]
    return [(float(time), what) for time, what in lines if any(word in what for word in words)]


async def took(action: Awaitable[object]) -> float:
    began = trio.current_time()
    await action
    return trio.current_time() - began


# ---- the schedule ------------------------------------------------------------------------------------------------

EVERY_FAULT: list[tuple[Callable[..., None], list[str], list[str]]] = [
    (Line.disconnect, ["connections refused", "connection cut"], ["connections accepted"]),
    (Line.refuse, ["connections refused"], ["connections accepted"]),
    (Line.freeze, ["frozen"], ["thawed"]),
    (lambda line, **when: line.slow(1.5, **when), ["slower by 1.5 s"], ["no longer slower by 1.5 s"]),
]
EVERY = pytest.mark.parametrize(
    ("fault", "begins", "ends"), EVERY_FAULT, ids=["disconnect", "refuse", "freeze", "slow"]
)


@EVERY
@pytest.mark.parametrize("planned", [False, True])
async def test_a_fault_begins_at_and_lasts_for_exactly_what_was_said(
    fault: Callable[..., None], begins: list[str], ends: list[str], planned: bool, autojump_clock: MockClock
) -> None:
    shop = Shop(MemoryBroker())

    def plan(world: World) -> None:
        fault(world.broker(shop.broker), at=3.2, for_=1.5)

    await trio.sleep(7)  # times are the world's, not the clock's
    async with open_test(shop.app, plan=plan if planned else None) as world:
        if not planned:
            plan(world)
        seen = []
        for seconds in (3.199, 0.002, 1.498, 0.002):
            await trio.sleep(seconds)
            seen.append(world.broker(shop.broker).has_fault)
        assert seen == [False, True, True, False]
        expected = [(3.2, f"memory: {what}") for what in begins] + [(4.7, f"memory: {what}") for what in ends]
        assert events(world, *begins, *ends) == expected


@EVERY
async def test_a_fault_without_a_time_is_there_before_the_next_line_of_the_test(
    fault: Callable[..., None], begins: list[str], ends: list[str], autojump_clock: MockClock
) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        await trio.sleep(2)
        line = world.broker(shop.broker)
        fault(line, for_=5)
        assert line.has_fault
        await trio.sleep(4.999)
        assert line.has_fault
        await trio.sleep(0.002)
        assert not line.has_fault


@pytest.mark.parametrize("fault", [Line.refuse, Line.freeze, lambda line: line.slow(1)])
async def test_a_fault_without_an_end_lasts(fault: Fault, autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        fault(world.broker(shop.broker))
        await trio.sleep(1000)
        assert world.broker(shop.broker).has_fault


async def test_faults_overlap_and_each_ends_by_itself(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        line = world.broker(shop.broker)
        line.freeze(at=1, for_=4)
        line.freeze(at=2, for_=1)
        line.refuse(at=1, for_=4)
        line.refuse(at=2, for_=1)
        line.slow(0.1, at=1, for_=4)
        line.slow(0.2, at=2, for_=1)
        await trio.sleep(2.5)
        assert line.delay == pytest.approx(0.3)
        await trio.sleep(1)
        assert (line.is_frozen, line.delay) == (True, 0.1)
        await trio.sleep(2)
        # Exactly nothing: 0.1 + 0.2 - 0.1 - 0.2 would be a fault that never ends.
        assert (line.is_frozen, line.delay, line.has_fault) == (False, 0, False)
        assert events(world, "thawed") == [(5.0, "memory: thawed")]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda line: line.disconnect(at=-1), "at=-1: give seconds since the world began, from 0 up"),
        (lambda line: line.disconnect(at=math.inf), "at=inf: give seconds since the world began, from 0 up"),
        (lambda line: line.freeze(at=math.nan), "at=nan: give seconds since the world began, from 0 up"),
        (lambda line: line.refuse(for_=-0.1), r"for_=-0.1: give seconds, from 0 up"),
        (lambda line: line.freeze(for_=math.nan), r"for_=nan: give seconds, from 0 up"),
        (lambda line: line.slow(0), r"slow\(by=0\): give seconds above 0"),
        (lambda line: line.slow(-1), r"slow\(by=-1\): give seconds above 0"),
        (lambda line: line.slow(math.inf), r"slow\(by=inf\): give seconds above 0; .* there is freeze\(\)"),
        (lambda line: line.disconnect(at=1.5), r"at=1.5 is past, it is 2 s: leave at out for now"),
    ],
)
async def test_a_fault_that_cannot_be_is_refused_and_changes_nothing(
    fault: Fault, words: str, autojump_clock: MockClock
) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        await trio.sleep(2)
        with pytest.raises(ConfigurationError, match=words):
            fault(world.broker(shop.broker))
        assert not world.broker(shop.broker).has_fault


def test_a_line_says_whose_it_is() -> None:
    async def main() -> str:
        shop = Shop(MemoryBroker())
        async with open_test(shop.app) as world:
            return repr(world.broker(shop.broker))

    assert trio.run(main) == "<Line memory of MemoryBroker('memory://')>"


# ---- disconnect and refuse ---------------------------------------------------------------------------------------


async def test_a_disconnect_loses_the_session_and_the_next_attempt_brings_another(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).disconnect(at=3.2)
        await trio.sleep(3.2001)
        assert shop.state() is LinkState.DOWN
        assert shop.app.status().brokers[0].error == "the connection was cut by the test"
        await until(lambda: shop.app.status().ready)
        assert 3.25 <= trio.current_time() <= 3.4  # the first back-off
        assert shop.app.status().brokers[0].sessions == 2


async def test_a_refusal_leaves_the_connection_that_is_there(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        line = world.broker(shop.broker)
        line.refuse(for_=60)
        await world.publish("x", to=shop.handle)
        await world.settled()
        assert shop.app.status().ready
        line.disconnect()
        await trio.sleep(30)
        assert shop.app.status().brokers[0].error == "ConnectionRefusedError: the test's world refuses connections"
        await world.publish("y", to=shop.handle)
        await world.settled()
        assert 60 <= trio.current_time() < 64


@pytest.mark.parametrize("slowed", [False, True])
async def test_a_publish_waits_for_the_connection_as_long_as_it_may(slowed: bool, autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker(publish_limit=10))
    async with open_test(shop.app) as world:
        line = world.broker(shop.broker)
        if slowed:
            line.slow(0.25)
        line.disconnect(for_=3)
        assert 3 <= await took(shop.broker.publish("x", "elsewhere")) < 8
        line.disconnect(for_=100)
        began = trio.current_time()
        with pytest.raises(BrokerUnavailable):
            await shop.broker.publish("y", "elsewhere")
        assert trio.current_time() - began == pytest.approx(10)
        assert world.published("elsewhere", str) == ["x"]


@pytest.mark.parametrize("make", [MemoryBroker, StrictBroker])
async def test_where_leases_are_the_sessions_a_disconnect_delivers_again(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make(), seconds=10)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        world.broker(shop.broker).disconnect(at=4)
        await world.settled()
        assert shop.bodies == ["x", "x"]
        # Who counts the attempts decides whether the second is known to be one.
        assert shop.attempts == [1, 1 if shop.broker.features.attempts == "session" else 2]
        assert [settled.outcome for settled in world.settlements] == [Ack()]


@pytest.mark.parametrize("make", [lambda: RedisBroker("redis://nowhere.invalid"), LastingBroker])
async def test_where_leases_are_the_brokers_a_disconnect_changes_nothing(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make(), seconds=10)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        world.broker(shop.broker).disconnect(at=4, for_=20)
        await world.settled()
        assert shop.bodies == ["x"]
        (settled,) = world.settlements
        assert settled.outcome == Ack()
        assert 24 <= settled.settled < 28


async def test_an_outage_of_a_day_is_survived_with_a_back_off_that_never_gives_up(autojump_clock: MockClock) -> None:
    shop = Shop(RedisBroker("redis://nowhere.invalid"))
    day = 24 * 60 * 60
    async with open_test(shop.app) as world:
        world.broker(shop.broker).disconnect(at=1, for_=day)
        await trio.sleep(2)
        await world.publish("x", to=shop.handle)
        await world.settled()
        assert day + 1 <= trio.current_time() <= day + 5.1
        assert shop.bodies == ["x"]


async def test_one_brokers_fault_is_no_news_for_another(autojump_clock: MockClock) -> None:
    one, two = Shop(MemoryBroker(name="one")), Shop(MemoryBroker(name="two"))
    async with open_test(Runtime(one.broker, two.broker)) as world:
        world.broker(one.broker).freeze()
        await world.publish("x", to=two.handle)
        await until(lambda: world.handled(two.handle))
        assert [call.ended for call in world.calls(two.handle)] == [0]
        assert not world.broker(two.broker).has_fault


# ---- freeze ------------------------------------------------------------------------------------------------------


async def test_a_frozen_broker_answers_nothing_until_it_thaws(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).freeze(for_=3)
        await world.publish("x", to=shop.handle)
        assert await took(shop.broker.publish("y", "elsewhere")) == pytest.approx(3)
        await world.settled()
        assert [call.started for call in world.calls(shop.handle)] == [pytest.approx(3)]
        assert shop.app.status().brokers[0].sessions == 1


async def test_the_watchdog_hangs_up_on_a_frozen_broker_and_connecting_to_it_has_its_limit(
    autojump_clock: MockClock,
) -> None:
    shop = Shop(MemoryBroker(connect_limit=7))
    async with open_test(shop.app) as world:
        world.broker(shop.broker).freeze(for_=60)
        await trio.sleep(8)
        assert shop.state() is LinkState.DEGRADED
        await trio.sleep(3)
        assert shop.app.status().brokers[0].error == "a probe had no answer for 5 s"
        await trio.sleep(8)
        assert shop.app.status().brokers[0].error == "TimeoutError: no answer within 7 s"
        await until(lambda: shop.app.status().ready, within=100)
        assert 60 <= trio.current_time() < 64


async def test_what_reached_a_frozen_broker_is_done_when_it_thaws_though_the_publisher_gave_up(
    autojump_clock: MockClock,
) -> None:
    shop = Shop(MemoryBroker(publish_limit=2))
    async with open_test(shop.app) as world:
        world.broker(shop.broker).freeze(for_=20)
        with pytest.raises(OutcomeUnknown):
            await shop.broker.publish("x", "orders")
        assert trio.current_time() == pytest.approx(2)
        assert world.published("orders") == []
        # It will come, so nothing is settled before it has.
        await world.settled()
        assert world.published("orders", str) == ["x"]
        assert shop.bodies == ["x"]


@pytest.mark.parametrize("make", [MemoryBroker, LastingBroker])
async def test_an_ack_that_reached_a_frozen_broker_counts_when_it_thaws_though_its_session_is_over(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make(), seconds=1)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        await until(lambda: shop.bodies)
        world.broker(shop.broker).freeze(at=0.5, for_=60)
        await world.settled()
        assert shop.bodies == ["x"]
        (settled,) = world.settlements
        assert settled.settled == pytest.approx(60.5)
        await until(lambda: shop.app.status().ready, within=10)
        assert shop.app.status().brokers[0].sessions == 2
        await world.settled()
        assert len(world.settlements) == 1


async def test_leases_run_out_on_a_frozen_broker_when_it_thaws(autojump_clock: MockClock) -> None:
    shop = Shop(LastingBroker(), seconds=5)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        await until(lambda: shop.bodies)
        world.broker(shop.broker).freeze(at=1, for_=2)
        await trio.sleep(1.5)
        world.broker(shop.broker).redeliver()
        assert events(world, "run out") == []
        await world.settled()
        assert events(world, "run out") == [(3.0, "fake: all leases run out")]
        assert [call.started for call in world.calls(shop.handle)] == pytest.approx([0, 5])


# ---- slow --------------------------------------------------------------------------------------------------------


async def test_every_operation_of_a_slow_broker_takes_that_much_longer(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).slow(0.5, for_=100)
        assert await took(shop.broker.publish("x", "elsewhere")) == pytest.approx(0.5)
        began = trio.current_time()
        await world.publish("x", to=shop.handle)
        await until(lambda: world.settlements)
        assert trio.current_time() - began == pytest.approx(0.5, abs=0.01)
        await trio.sleep(100)
        assert await took(shop.broker.publish("y", "elsewhere")) == 0


async def test_connecting_to_a_slow_broker_takes_longer_and_may_take_too_long(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker(connect_limit=2))
    async with open_test(shop.app, plan=lambda world: world.broker(shop.broker).slow(1.5, for_=2.9)) as world:
        await until(lambda: shop.app.status().ready)
        assert [time for time, _ in events(world, "opened")] == [3.0]  # to connect, and to open the source
    async with open_test(shop.app, plan=lambda world: world.broker(shop.broker).slow(2.5)):
        await trio.sleep(2.01)
        assert shop.app.status().brokers[0].error == "TimeoutError: no answer within 2 s"


# ---- what is lost, doubled, and delivered again -------------------------------------------------------------------


@pytest.mark.parametrize("make", [MemoryBroker, StrictBroker])
async def test_a_lost_ack_is_delivered_again_where_leases_are_the_sessions(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).lose_next_ack()
        await world.publish("x", to=shop.handle)
        await world.settled()
        assert shop.bodies == ["x", "x"]
        assert [settled.outcome for settled in world.settlements] == [Ack()]  # the broker heard of one
        assert shop.app.status().brokers[0].sessions == 2
        await world.publish("y", to=shop.handle)
        await world.settled()
        assert shop.bodies == ["x", "x", "y"]


@pytest.mark.parametrize("make", [lambda: RedisBroker("redis://nowhere.invalid"), LastingBroker])
async def test_a_lost_ack_is_sent_again_where_leases_are_the_brokers(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).lose_next_ack()
        await world.publish("x", to=shop.handle)
        await world.settled()
        assert shop.bodies == ["x"]
        assert [settled.outcome for settled in world.settlements] == [Ack()]
        assert shop.app.status().brokers[0].sessions == 2


async def test_a_lost_confirm_is_an_unknown_outcome_and_the_broker_has_the_message(autojump_clock: MockClock) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).lose_next_confirm()
        with pytest.raises(OutcomeUnknown, match="the connection broke before a confirm"):
            await shop.broker.publish("x", "elsewhere")
        assert world.published("elsewhere", str) == ["x"]
        await shop.broker.publish("y", "elsewhere")
        assert world.published("elsewhere", str) == ["x", "y"]


async def test_a_publish_that_is_cut_off_on_its_way_is_unknown_and_one_that_was_not_sent_is_sent_again(
    autojump_clock: MockClock,
) -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        line = world.broker(shop.broker)
        line.slow(1, for_=3)
        line.disconnect(at=0.5)
        with pytest.raises(OutcomeUnknown, match="the connection was cut by the test"):
            await shop.broker.publish("x", "elsewhere")
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(10)
        line.disconnect()
        await shop.broker.publish("y", "elsewhere")
        assert world.published("elsewhere", str) == ["x", "y"]


async def test_a_duplicate_is_the_same_message_delivered_twice_once() -> None:
    shop = Shop(MemoryBroker())
    async with open_test(shop.app) as world:
        world.broker(shop.broker).duplicate_next()
        await world.publish("x", to=shop.handle)
        await world.publish("y", to=shop.handle)
        await world.settled()
        assert sorted(shop.bodies) == ["x", "x", "y"]
        assert shop.attempts == [1, 1, 1]
        assert sorted(call.message.id for call in world.calls(shop.handle)) == ["m1", "m1", "m2"]
        assert len(world.published("orders")) == 2
        assert [settled.outcome for settled in world.settlements] == [Ack()] * 3


@pytest.mark.parametrize("make", [MemoryBroker, LastingBroker])
async def test_leases_that_run_out_deliver_again_on_the_same_connection_and_the_first_ack_is_void(
    make: Callable[[], Broker[Any]], autojump_clock: MockClock
) -> None:
    shop = Shop(make(), seconds=10)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        await trio.sleep(4)
        world.broker(shop.broker).redeliver()
        await world.settled()
        assert [call.started for call in world.calls(shop.handle)] == pytest.approx([0, 10])
        assert shop.attempts == [1, 2]
        assert [settled.settled for settled in world.settlements] == [pytest.approx(20)]
        assert shop.app.status().brokers[0].sessions == 1
        assert shop.app.status().brokers[0].subscriptions[0].lost == 1


async def test_leases_that_run_out_during_an_outage_are_missed_on_the_next_session(autojump_clock: MockClock) -> None:
    shop = Shop(LastingBroker(), seconds=10)
    async with open_test(shop.app) as world:
        await world.publish("x", to=shop.handle)
        world.broker(shop.broker).disconnect(at=1, for_=20)
        await trio.sleep(5)
        world.broker(shop.broker).redeliver()
        await world.settled()
        assert shop.attempts == [1, 2]
        assert [settled.outcome for settled in world.settlements] == [Ack()]
        assert shop.app.status().brokers[0].subscriptions[0].lost == 1


async def test_a_lost_ack_takes_the_whole_batch_with_it_and_a_release_too(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        await trio.sleep(1)
        if body == "bad" and message.attempt < 3:
            raise ValueError(body)

    async with open_test(Runtime(broker), collect_errors=True) as world:
        world.broker(broker).lose_next_ack()
        await world.publish("good", to=handle)
        await world.publish("bad", to=handle)
        await world.settled()
        assert world.handled(handle).count("good") == 2
        assert [s.outcome for s in world.settlements if s.message.body == b"bad"] == [Release(after=0.4), Ack()]
