"""The world: the real runtime in memory, what a test does in it and sees of it, and what leaves the block."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from adapters.redis import RedisBroker, Stream
from runtime import (
    Broker,
    BrokerUnavailable,
    ConfigurationError,
    Message,
    NotServing,
    Phase,
    Router,
    Runtime,
    Unroutable,
    current_run,
)
from runtime.delivery import Ack, Reject, Release
from runtime.testing import PromiseBroken, SetAside, World, open_test

from ..bench.waiting import until
from .brokers import StrictBroker, brokers


class Order(msgspec.Struct):
    id: int


class Billing:
    """One application on each kind of broker: orders are billed, what is billed goes on to the invoices."""

    def __init__(self, broker: Broker[Any]) -> None:
        self.broker = broker
        self.app = Runtime(broker)
        self.billed: list[int] = []

        @broker.subscriber("orders")
        @broker.publisher("invoices")
        async def bill(order: Order) -> dict[str, int]:
            self.billed.append(order.id)
            return {"order": order.id}

        @broker.subscriber("invoices")
        async def file(invoice: dict[str, int]) -> None: ...

        self.bill, self.file = bill, file


@pytest.fixture(params=brokers(), ids=lambda broker: type(broker).__name__)
def billing(request: pytest.FixtureRequest) -> Billing:
    return Billing(type(request.param)(request.param.url))


@pytest.fixture
def memory() -> Billing:
    return Billing(MemoryBroker())


# ---- publish, settled, and what is seen afterwards ---------------------------------------------------------------


async def test_the_whole_application_runs_on_every_kind_of_broker_and_the_adapter_is_never_asked(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(billing.broker), "open_session", None)
    async with open_test(billing.app) as world:
        await world.publish(Order(1), to="orders")
        await world.publish(Order(2), to=billing.bill)
        await world.settled()
        assert sorted(order.id for order in world.handled(billing.bill)) == [1, 2]
        assert sorted(world.published("invoices", dict[str, int]), key=str) == [{"order": 1}, {"order": 2}]
        assert len(world.handled(billing.file)) == 2
        assert [type(settled.outcome) for settled in world.settlements] == [Ack] * 4


async def test_publish_carries_all_that_a_message_can_and_returns_its_id(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        made = await world.publish(
            b"{}",
            to="elsewhere",
            key="k",
            headers={"h": "1"},
            reply_to="answers",
            correlation_id="c",
            content_type="text/x",
            message_id="mine",
        )
        (message,) = world.published("elsewhere")
    assert (made, message.id, message.key, message.headers["h"]) == ("mine", "mine", "k", "1")
    assert (message.reply_to, message.correlation_id, message.content_type) == ("answers", "c", "text/x")


async def test_publish_to_a_handler_goes_past_all_routing_and_to_a_destination_by_it() -> None:
    broker = StrictBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None: ...

    async with open_test(Runtime(broker)) as world:
        await world.publish("a", to=handle)
        await world.publish("b", to="orders")
        with pytest.raises(Unroutable, match=r"nothing would receive message .* to nobody"):
            await world.publish("c", to="nobody")
        await world.settled()
        assert sorted(world.handled(handle)) == ["a", "b"]
        assert world.published("nobody") == []


async def test_the_applications_own_publish_is_refused_like_the_worlds() -> None:
    broker = StrictBroker()
    async with open_test(Runtime(broker)):
        with pytest.raises(Unroutable):
            await broker.publish("c", "nobody")


async def test_publish_is_what_another_program_does_so_an_outage_does_not_hold_it_up(
    memory: Billing, autojump_clock: MockClock
) -> None:
    async with open_test(memory.app) as world:
        world.broker(memory.broker).disconnect(for_=60)
        await world.publish(Order(1), to="orders")
        assert trio.current_time() == 0
        assert len(world.published("orders")) == 1
        await world.settled()
        assert 60 <= trio.current_time() < 64
        assert memory.billed == [1]


async def test_a_handler_that_is_not_the_applications_is_refused_by_name(memory: Billing) -> None:
    async def stranger(body: str) -> None: ...

    async with open_test(memory.app) as world:
        for ask in (world.handled, world.calls):
            with pytest.raises(ConfigurationError, match=r"stranger is not a handler of this world's application"):
                ask(stranger)
        with pytest.raises(ConfigurationError, match=r"stranger is no handler of .* name a destination"):
            await world.publish("x", to=stranger)
        with pytest.raises(ConfigurationError, match=r"42 is a destination on none of this world's brokers"):
            await world.publish("x", to=42)
        with pytest.raises(ConfigurationError, match=r"MemoryBroker\('memory://'\) is not a broker of this world's"):
            world.broker(MemoryBroker())


async def test_a_handler_of_two_subscriptions_needs_a_destination_and_is_seen_in_both() -> None:
    broker = MemoryBroker()

    @broker.subscriber("a")
    @broker.subscriber("b")
    async def handle(body: str) -> None: ...

    async with open_test(Runtime(broker)) as world:
        with pytest.raises(ConfigurationError, match=r"handle is the handler of 2 subscriptions .* name a destination"):
            await world.publish("x", to=handle)
        await world.publish("1", to="a")
        await world.publish("2", to="b")
        await world.settled()
        assert sorted(world.handled(handle)) == ["1", "2"]


async def test_a_decorated_handler_is_known_by_its_wrapper_and_by_what_is_inside() -> None:
    broker = MemoryBroker()

    async def inner(body: str) -> None: ...

    @broker.subscriber("a")
    @functools.wraps(inner)
    async def wrapper(body: str) -> None:
        await inner(body)

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=wrapper)
        await world.settled()
        assert world.handled(inner) == world.handled(wrapper) == ["x"]


async def test_each_call_decodes_with_the_codec_of_the_broker_that_it_came_from() -> None:
    class Shouting:
        content_type = "text/plain"

        def encode(self, body: Any) -> bytes:
            return str(body).encode()

        def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
            return lambda body: body.decode().upper()

    plain, loud = MemoryBroker(name="plain"), MemoryBroker(name="loud")
    router = Router()

    async def handle(body: dict[str, int] | str) -> None: ...

    plain.subscriber("a")(handle)
    loud.subscriber("b", codec=Shouting())(handle)
    app = Runtime(plain, loud)
    app.include(router, plain)
    async with open_test(app) as world:
        await world.publish({"x": 1}, to="a")
        await world.settled()
        await world.publish("hush", to="b")
        await world.settled()
        assert world.handled(handle) == [{"x": 1}, "HUSH"]
        assert [call.body for call in world.calls(handle)] == [{"x": 1}, "HUSH"]


async def test_a_destination_that_several_brokers_could_mean_is_the_one_that_subscribes_it() -> None:
    one, two = MemoryBroker(name="one"), RedisBroker("redis://nowhere.invalid", name="two")

    @two.subscriber("orders")
    async def handle(body: str) -> None: ...

    async with open_test(Runtime(one, two)) as world:
        await world.publish("x", to="orders")
        await world.settled()
        assert world.handled(handle) == ["x"]
        with pytest.raises(
            ConfigurationError, match="elsewhere could be on one, two: publish to a handler, or through"
        ):
            await world.publish("x", to="elsewhere")
        await world.publish("y", to=Stream("elsewhere"))
        assert [message.body for message in world.published(Topic("elsewhere"))] == [b"y"]


async def test_two_brokers_of_one_server_are_one_place_and_share_a_group_without_delivering_twice() -> None:
    one, two = RedisBroker("redis://same.invalid"), RedisBroker("redis://same.invalid")
    together = trio.Event()
    seen: dict[str, list[str]] = {"one": [], "two": []}

    def subscribe(broker: RedisBroker, name: str) -> None:
        @broker.subscriber("orders", concurrency=1, prefetch=1)
        async def handle(body: str) -> None:
            seen[name].append(body)
            if all(seen.values()):
                together.set()
            await together.wait()

    subscribe(one, "one")
    subscribe(two, "two")
    async with open_test(Runtime(one, two)) as world:
        await world.publish("a", to="orders")
        await world.publish("b", to="orders")
        with trio.fail_after(5):
            await world.settled()
        await world.publish("c", to="elsewhere")
        world.broker(one).redeliver()
        await world.settled()
        assert sorted(seen["one"] + seen["two"]) == ["a", "b"]
        assert len(world.published("elsewhere")) == 1


async def test_groups_that_start_at_the_end_or_the_beginning_get_what_they_would_on_the_broker() -> None:
    broker = RedisBroker("redis://nowhere.invalid")
    seen: list[str] = []

    @broker.subscriber(Stream("orders", group="early", start="beginning"))
    async def early(body: str) -> None:
        seen.append(f"early {body}")

    @broker.subscriber(Stream("orders", group="late", start="end"))
    async def late(body: str) -> None:
        seen.append(f"late {body}")

    async with open_test(Runtime(broker), plan=lambda world: world.broker(broker).refuse(for_=0.001)) as world:
        await world.publish("1", to="orders")
        await until(lambda: world.run.status().ready)
        await world.publish("2", to="orders")
        await world.settled()
    assert sorted(seen) == ["early 1", "early 2", "late 2"]


async def test_handled_is_in_the_order_of_the_returns_even_of_those_in_one_instant(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    second = trio.Event()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        if body == "first":
            await second.wait()
        else:
            second.set()

    async with open_test(Runtime(broker)) as world:
        await world.publish("first", to=handle)
        await until(lambda: world.calls(handle))
        await world.publish("second", to=handle)
        await world.settled()
        assert world.handled(handle) == ["second", "first"]
        assert [call.body for call in world.calls(handle)] == ["first", "second"]
        assert trio.current_time() < 0.1


async def test_calls_and_settlements_have_every_attempt_with_its_exact_virtual_times(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        await trio.sleep(1)
        if message.attempt < 3:
            raise ValueError(body)

    await trio.sleep(5)  # a world's time is its own
    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        assert len(await world.settled(collect_errors=True)) == 2
        calls = world.calls(handle)
        assert [call.started for call in calls] == pytest.approx([0, 1.2, 2.6])
        assert [call.ended for call in calls] == pytest.approx([1, 2.2, 3.6])
        assert [type(c.error) for c in calls] == [ValueError, ValueError, type(None)]
        assert [c.outcome for c in calls] == [None, None, Ack()]
        assert [c.message.attempt for c in calls] == [1, 2, 3]
        assert [c.returned for c in calls] == [False, False, True]
        settled = world.settlements
        assert [s.outcome for s in settled] == [Release(after=0.2), Release(after=0.4), Ack()]
        assert [s.attempt for s in settled] == [1, 2, 3]
        assert [s.delivered for s in settled] == pytest.approx([0, 1.2, 2.6])
        assert [s.settled for s in settled] == pytest.approx([1, 2.2, 3.6])
        assert {(s.broker, s.source, s.message.id) for s in settled} == {("memory", "orders/default", "m1")}


async def test_what_is_set_aside_is_published_and_five_errors_are_raised_as_one_group(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        raise ValueError("no")

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        with pytest.raises(ExceptionGroup, match="handlers raised 5 times") as caught:
            await world.settled()
        assert [repr(error) for error in caught.value.exceptions] == ["ValueError('no')"] * 5
        (aside,) = world.published("orders.rejected")
        assert aside.headers["rejected-reason"] == "failed 5 times, the last time with ValueError: no"
        assert aside.headers["rejected-from"] == "orders/default"
        assert world.handled(handle) == []
        assert isinstance(world.settlements[-1].outcome, Reject)
        assert trio.current_time() == pytest.approx(0.2 + 0.4 + 0.8 + 1.6)


# ---- settled -----------------------------------------------------------------------------------------------------


async def test_settled_returns_in_the_very_moment_in_which_the_last_of_a_cascade_ends_and_takes_no_steps_meanwhile(
    autojump_clock: MockClock,
) -> None:
    one, two = MemoryBroker(name="one"), RedisBroker("redis://nowhere.invalid", name="two")

    @one.subscriber("a")
    @two.publisher("b")
    async def first(body: str) -> str:
        await trio.sleep(1000)
        return body + "!"

    @two.subscriber("b")
    async def second(body: str) -> None:
        await one.publish(body + "!", "c")
        await trio.sleep(2000)

    @one.subscriber("c")
    async def third(body: str) -> None:
        await trio.sleep(5000)

    steps: list[float] = []

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is me:
                steps.append(trio.current_time())

    me = trio.lowlevel.current_task()
    async with open_test(Runtime(one, two)) as world:
        await world.publish("x", to=first)
        trio.lowlevel.add_instrument(Steps())
        await world.settled()
        assert trio.current_time() == pytest.approx(6000)
        assert world.handled(third) == ["x!!"]
        # It wakes up when something has ended; a poll would have woken it up a thousand times.
        assert len(steps) < 15
        assert {round(step) for step in steps} == {0, 1000, 3000, 6000}


async def test_settled_waits_for_a_publish_that_has_no_answer_yet(memory: Billing, autojump_clock: MockClock) -> None:
    async with open_test(memory.app) as world, trio.open_nursery() as nursery:
        world.broker(memory.broker).disconnect(for_=20)
        nursery.start_soon(memory.broker.publish, b"x", "elsewhere")
        await trio.testing.wait_all_tasks_blocked()
        await world.settled()
        assert 20 <= trio.current_time() < 24
        assert len(world.published("elsewhere")) == 1


async def test_settled_waits_for_what_one_broker_is_given_while_another_is_flushed(autojump_clock: MockClock) -> None:
    one, two = MemoryBroker(name="one"), MemoryBroker(name="two")
    async with open_test(Runtime(one, two)) as world, trio.open_nursery() as nursery:
        world.broker(one).disconnect(for_=20)
        world.broker(two).disconnect(for_=10)
        nursery.start_soon(two.publish, b"x", "there")

        async def later() -> None:
            await trio.sleep(5)
            await one.publish(b"x", "here")

        nursery.start_soon(later)
        await trio.testing.wait_all_tasks_blocked()
        await world.settled()
        assert len(world.published("here")) == 1


async def test_settled_with_nothing_to_wait_for_returns_at_once_and_is_a_checkpoint(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        with trio.testing.assert_checkpoints():
            assert await world.settled() == []


async def test_settled_raises_an_error_once_as_it_was_raised(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    failure = AssertionError("not what I expected")

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        if message.attempt == 1:
            raise failure

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        with pytest.raises(AssertionError) as caught:
            await world.settled()
        assert caught.value is failure
        await world.settled()


async def test_errors_that_are_collected_are_returned_once_and_not_raised_at_the_end(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        if message.attempt == 1:
            raise ValueError("no")

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        assert [str(error) for error in await world.settled(collect_errors=True)] == ["no"]
        assert await world.settled(collect_errors=True) == []

    async with open_test(Runtime(broker), collect_errors=True) as world:
        await world.publish("x", to=handle)
        assert [str(error) for error in await world.settled()] == ["no"]
        await world.publish("x", to=handle)
        with pytest.raises(ValueError, match="no"):
            await world.settled(collect_errors=False)
        await world.publish("x", to=handle)


async def test_a_body_that_does_not_decode_is_an_error_although_its_handler_was_never_called(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        made = await world.publish(b"{", to=memory.bill)
        with pytest.raises(SetAside, match=f"message {made} was set aside: its body does not decode"):
            await world.settled()
        assert (memory.billed, world.handled(memory.bill)) == ([], [])
        (call,) = world.calls(memory.bill)
        assert isinstance(call.outcome, Reject)
        assert not call.returned
        assert f"message {made} rejected: its body does not decode" in world.timeline()
        assert "returned" not in world.timeline()


async def test_errors_out_of_a_handlers_own_nursery_are_told_apart_from_its_cancel(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it was cancelled")

    app = Runtime(broker, grace=0)
    with pytest.raises(ExceptionGroup) as caught:
        async with open_test(app) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
    assert caught.group_contains(ValueError, match="while it was cancelled")
    assert not caught.group_contains(trio.Cancelled)


async def test_settled_waits_for_redeliveries_and_for_a_handler_whose_message_was_lost(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        await trio.sleep(10)

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        world.broker(broker).disconnect(at=4)
        await world.settled()
        first, second = world.calls(handle)
        assert first.ended == pytest.approx(10)
        assert second.ended is not None
        assert second.ended > 14
        assert trio.current_time() == second.ended


async def test_settled_once_the_run_stops_waits_for_what_was_taken_and_not_for_what_nobody_will_take(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders", concurrency=1, prefetch=2)
    async def handle(body: str) -> None:
        await trio.sleep(10)

    app = Runtime(broker)
    async with open_test(app) as world:
        for number in range(5):
            await world.publish(str(number), to=handle)
        await until(lambda: world.calls(handle))
        app.stop("enough")
        assert app.status().phase is Phase.DRAINING
        with trio.fail_after(100):
            await world.settled()
        assert trio.current_time() == pytest.approx(10)
        assert world.handled(handle) == ["0"]
        assert "stopping: enough" in world.timeline()


# ---- the application inside --------------------------------------------------------------------------------------


async def test_status_and_the_current_run_are_there_inside(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        assert memory.app.status().ready
        assert current_run() is world.run
        (subscription,) = [s for s in memory.app.status().broker("memory").subscriptions if "orders" in s.source]
        assert subscription.prefetch == 18
    assert memory.app.status().phase is Phase.IDLE
    assert world.run.phase is Phase.CLOSED
    with pytest.raises(NotServing):
        await memory.broker.publish(b"x", "orders")


async def test_the_block_begins_when_every_subscription_is_open_but_for_those_of_a_broken_broker() -> None:
    one, two = MemoryBroker(name="one"), MemoryBroker(name="two")

    async def handle(body: str) -> None: ...

    one.subscriber("a")(handle)
    two.subscriber("b")(handle)
    app = Runtime(one, two)
    async with open_test(app, plan=lambda world: world.broker(two).refuse()):
        assert app.status().broker("one").ready
        assert not app.status().broker("two").ready


async def test_an_application_that_stops_itself_while_it_starts_does_not_hold_up_the_block() -> None:
    broker = MemoryBroker()

    @broker.subscriber("a")
    async def handle(body: str) -> None: ...

    @broker.task
    async def stop() -> None:
        current_run().stop("changed my mind")

    with trio.fail_after(5):
        async with open_test(Runtime(broker)) as world:
            await world.settled()
            assert world.run.phase is not Phase.RUNNING


async def test_tasks_run_and_publish_and_are_cancelled_at_the_end(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    ticks: list[float] = []

    @broker.task
    async def tick() -> None:
        while True:
            await trio.sleep(60)
            await broker.publish("tick", "ticks")

    @broker.subscriber("ticks")
    async def note(body: str) -> None:
        ticks.append(trio.current_time())

    async with open_test(Runtime(broker)) as world:
        await trio.sleep(200)
        await world.settled()
    assert ticks == [60, 120, 180]


async def test_what_a_task_raises_leaves_the_block_with_the_timeline() -> None:
    broker = MemoryBroker()

    @broker.task
    async def fail() -> None:
        await broker.publish("x", "elsewhere")
        raise ValueError("the feed is gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with open_test(Runtime(broker)):
            await trio.sleep_forever()
    assert caught.group_contains(ValueError, match="the feed is gone")
    assert "message m1 → elsewhere" in timeline_of(caught.value)


@pytest.mark.parametrize("ordered_by", [None, "key"])
async def test_order_and_bounds_are_the_runtimes(ordered_by: Any, autojump_clock: MockClock) -> None:
    broker = RedisBroker("redis://nowhere.invalid") if ordered_by is None else MemoryBroker()
    running: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0}

    @broker.subscriber("orders", concurrency=3, prefetch=5, ordered_by=ordered_by)
    async def handle(body: int, message: Message) -> None:
        key = str(message.key)
        running[key] += 1
        most[key] = max(most[key], running[key])
        await trio.sleep(1)
        running[key] -= 1

    app = Runtime(broker)
    async with open_test(app, plan=lambda world: world.broker(broker).refuse(for_=1)) as world:
        for number in range(10):
            await world.publish(number, to=handle, key="ab"[number % 2])
        await until(lambda: world.calls(handle))
        (subscription,) = app.status().brokers[0].subscriptions
        assert (subscription.unsettled, subscription.lag) == (5, 5)
        await world.settled()
        bodies = world.handled(handle)
        if ordered_by == "key":
            assert most == {"a": 1, "b": 1}
            assert [n for n in bodies if n % 2 == 0] == [0, 2, 4, 6, 8]
            assert [n for n in bodies if n % 2 == 1] == [1, 3, 5, 7, 9]
        else:
            assert sum(most.values()) > 2
            assert sorted(bodies) == list(range(10))


# ---- side by side ------------------------------------------------------------------------------------------------


async def test_two_worlds_stand_side_by_side_with_the_same_broker_and_router_in_both(
    autojump_clock: MockClock,
) -> None:
    broker, router = MemoryBroker(), Router()

    @router.subscriber("orders")
    @router.publisher("done")
    async def handle(body: str) -> str:
        return body + "!"

    one, two = Runtime(broker), Runtime(broker)
    one.include(router, broker)
    two.include(router, broker)
    async with open_test(one) as first, open_test(two) as second:
        first.broker(broker).disconnect(for_=30)
        await first.publish("x", to=handle)
        await second.publish("y", to=handle)
        await second.settled()
        assert trio.current_time() == 0
        assert second.handled(handle) == ["y"]
        assert first.handled(handle) == []
        await first.settled()
        assert first.handled(handle) == ["x"]
        assert first.published("done", str) == ["x!"]
        assert second.published("done", str) == ["y!"]


async def test_worlds_in_tasks_of_their_own_do_not_meet() -> None:
    broker = MemoryBroker()
    apps = [Runtime(broker) for _ in range(5)]
    seen: list[list[bytes]] = []

    async def use(app: Runtime, number: int) -> None:
        async with open_test(app) as world:
            await broker.publish(number, "numbers")
            await world.settled()
            seen.append([message.body for message in world.published("numbers")])

    async with trio.open_nursery() as nursery:
        for number, app in enumerate(apps):
            nursery.start_soon(use, app, number)
    assert sorted(seen) == [[b"%d" % number] for number in range(5)]


async def test_after_the_block_the_application_is_served_as_ever(memory: Billing) -> None:
    async with open_test(memory.app) as world:
        await world.publish(Order(1), to="orders")
        await world.settled()
    async with memory.app.open():
        await memory.broker.publish(Order(2), "orders")
        await until(lambda: memory.billed == [1, 2])


# ---- what leaves the block ---------------------------------------------------------------------------------------


def timeline_of(error: BaseException) -> str:
    (note,) = error.__notes__
    assert note.startswith("The world's timeline, in seconds:\n")
    return note


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("1 == 2"),
        ValueError("no"),
        KeyboardInterrupt(),
        pytest.fail.Exception("failed"),
        pytest.skip.Exception("skipped"),
        ExceptionGroup("mine", [ValueError("a"), ValueError("b")]),
    ],
    ids=repr,
)
async def test_an_error_leaves_the_block_as_it_is_with_the_timeline_as_a_note(
    memory: Billing, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_test(memory.app) as world:
            await world.publish(Order(1), to="orders")
            await world.settled()
            raise error
    assert caught.value is error
    lines = timeline_of(error).splitlines()
    assert [line.strip().split("  ", 1)[1] for line in lines if "m1" in line] == [
        "test: message m1 → orders",
        "memory: message m1 delivered from orders/default",
        f"{__name__}.{memory.bill.__qualname__}: message m1 attempt 1",
        f"{__name__}.{memory.bill.__qualname__}: message m1 returned",
        "memory: message m1 acknowledged",
    ]


async def test_an_error_tears_the_run_down_instead_of_draining_it(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        await trio.sleep(25)

    with pytest.raises(ValueError, match="no"):
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
            raise ValueError("no")
    assert trio.current_time() < 2
    (call,) = world.calls(handle)
    assert isinstance(call.error, trio.Cancelled)
    assert world.record.violations == []


async def test_a_cancel_from_outside_passes_and_is_no_error(memory: Billing, autojump_clock: MockClock) -> None:
    with trio.move_on_after(3) as scope:
        async with open_test(memory.app):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    with pytest.raises(trio.TooSlowError), trio.fail_after(3):
        async with open_test(memory.app):
            await trio.sleep_forever()


async def test_a_limit_inside_the_block_has_the_timeline(memory: Billing, autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        async with open_test(memory.app) as world:
            with trio.fail_after(3):
                world.broker(memory.broker).disconnect(for_=10)
                await world.publish(Order(1), to="orders")
                await world.settled()
    assert "connection cut" in timeline_of(caught.value)


async def test_errors_that_nobody_asked_for_are_raised_at_the_end(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        if message.attempt == 1:
            raise ValueError("unseen")

    with pytest.raises(ValueError, match="unseen") as caught:
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
    assert "raised ValueError: unseen" in timeline_of(caught.value)


async def test_an_error_of_the_test_goes_before_those_of_handlers() -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        raise ValueError("of the handler")

    with pytest.raises(AssertionError, match="of the test"):
        async with open_test(Runtime(broker)) as world:
            await world.publish("x", to=handle)
            await until(lambda: world.calls(handle))
            raise AssertionError("of the test")


async def test_a_broken_promise_is_raised_at_the_end(memory: Billing) -> None:
    with pytest.raises(PromiseBroken, match="it was broken") as caught:
        async with open_test(memory.app) as world:
            world.record.broke("it was broken")
    assert "PROMISE BROKEN: it was broken" in timeline_of(caught.value)


async def test_a_handler_that_could_not_publish_is_reported_like_any_other(autojump_clock: MockClock) -> None:
    broker, other = MemoryBroker(), MemoryBroker(name="other", publish_limit=1)

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        await other.publish(body, "elsewhere")

    async with open_test(Runtime(broker, other)) as world:
        world.broker(other).disconnect(for_=2)
        await world.publish("x", to=handle)
        errors = await world.settled(collect_errors=True)
        assert {type(error) for error in errors} == {BrokerUnavailable}
        assert world.handled(handle) == ["x"]
        assert {call.message.attempt for call in world.calls(handle)} == {1}


# ---- seeds and plans ---------------------------------------------------------------------------------------------


async def test_a_plan_is_in_force_before_the_application_starts(memory: Billing, autojump_clock: MockClock) -> None:
    def plan(world: World) -> None:
        world.broker(memory.broker).refuse(for_=5)

    async with open_test(memory.app, plan=plan) as world:
        assert not memory.app.status().ready
        await world.publish(Order(1), to="orders")
        await world.settled()
        assert 5 <= world.settlements[0].settled < 9
        assert memory.app.status().brokers[0].sessions == 1


async def test_a_seeded_world_has_its_own_time_of_day_and_its_own_ids(
    memory: Billing, autojump_clock: MockClock
) -> None:
    async with open_test(memory.app, seed=1) as world:
        await trio.sleep(10)
        assert await world.publish(Order(1), to="orders") == "m1"
        assert await memory.broker.publish(Order(1), "orders") == "m2"
        stamps = [message.timestamp for message in world.published("orders")]
        await world.settled()
    assert stamps == [1_704_067_210.0, 1_704_067_210.0]
