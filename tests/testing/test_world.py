"""The world: what a test does in it and what it sees afterwards, on every kind of broker."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from adapters.redis import RedisBroker, Stream
from runtime import (
    ConfigurationError,
    Message,
    Router,
    Runtime,
    Unroutable,
)
from runtime.delivery import Ack, Reject, Release
from runtime.testing import open_test

from ..bench.waiting import until
from .billing import Billing, Order
from .brokers import StrictBroker


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


async def test_publish_to_a_handler_reaches_it_where_no_route_would() -> None:
    class Unrouted(StrictBroker):
        def route(self, message: Message, destination: Any, declared: Any) -> tuple[str, ...]:
            raise Unroutable("nobody gets anything")

    broker = Unrouted()

    @broker.subscriber("orders")
    async def handle(body: str) -> None: ...

    async with open_test(Runtime(broker)) as world:
        with pytest.raises(Unroutable):
            await world.publish("a", to="orders")
        await world.publish("b", to=handle)
        await world.settled()
        assert world.handled(handle) == ["b"]


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
