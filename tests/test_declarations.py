"""What users declare: order does not matter, mistakes are refused in one sentence, and bad messages harm nobody."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from runtime import (
    BrokerUnavailable,
    ConfigurationError,
    Message,
    NotServing,
    Router,
    Runtime,
)
from runtime.retry import MAX_ATTEMPTS, PAUSE

from .bench.waiting import until


@pytest.mark.parametrize("subscriber_is_outermost", [True, False])
async def test_decorators_may_come_in_any_order(autojump_clock: MockClock, subscriber_is_outermost: bool) -> None:
    broker = MemoryBroker()

    async def double(number: int) -> int:
        return 2 * number

    decorators: list[Callable[[Any], Any]] = [broker.publisher("doubled"), broker.subscriber("numbers")]
    for decorate in decorators if subscriber_is_outermost else reversed(decorators):
        assert decorate(double) is double
    async with Runtime(broker).open():
        sent = await broker.publish(21, "numbers", key="k")
        await until(lambda: broker.server.messages("doubled"))
    (result,) = broker.server.messages("doubled")
    assert (result.body, result.key, result.correlation_id) == (b"42", "k", sent)


async def test_a_handler_stays_a_plain_function() -> None:
    broker = MemoryBroker()

    @broker.subscriber("numbers")
    @broker.publisher("doubled")
    async def double(number: int) -> int:
        return 2 * number

    assert await double(4) == 8


async def test_declarations_are_frozen_once_served(autojump_clock: MockClock) -> None:
    broker, router = MemoryBroker(), Router()
    app = Runtime(broker)
    app.include(router, broker)
    async with app.open():
        pass

    async def clock() -> None: ...

    for declarations in (broker, router):
        with pytest.raises(ConfigurationError, match="a subscriber cannot be added"):
            declarations.subscriber("x")
        with pytest.raises(ConfigurationError, match="a publisher cannot be added"):
            declarations.publisher("x")
        with pytest.raises(ConfigurationError, match="a task cannot be added"):
            declarations.task(clock)
    with pytest.raises(ConfigurationError, match="has been served"):
        app.include(Router(), broker)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, r"concurrency of subscriber orders is 0: give a whole number from 1 up"),
        ({"concurrency": 1.5}, r"concurrency of subscriber orders is 1\.5"),
        ({"prefetch": 0}, r"prefetch of subscriber orders is 0"),
        ({"concurrency": 9, "prefetch": 3}, r"prefetch of subscriber orders is 3, below its concurrency of 9"),
        ({"ordered_by": "age"}, r"ordered_by of subscriber orders is 'age': only \"key\" is known"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_registration(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        MemoryBroker().subscriber("orders", **options)


async def _two(one: int, other: int) -> None: ...
async def _none(message: Message) -> None: ...
async def _many(*bodies: int) -> None: ...
def _sync(body: int) -> None: ...
async def _socket(body: trio.SocketStream) -> None: ...


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (_two, r"2 parameters for one body \(one, other\)"),
        (_none, "no parameter for the body"),
        (_many, r"takes \*bodies"),
        (_sync, "is not an async function"),
        (42, "is not a function"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused_at_registration(handler: Any, says: str) -> None:
    broker = MemoryBroker()
    with pytest.raises(ConfigurationError, match=says):
        broker.subscriber("orders")(handler)
    assert broker.subscribers == []


async def test_a_body_that_no_codec_can_decode_is_refused_at_start() -> None:
    broker = MemoryBroker()
    broker.subscriber("orders")(_socket)
    with pytest.raises(ConfigurationError, match=r"_socket: cannot decode JSON into .*SocketStream"):
        await Runtime(broker).serve()


async def test_a_task_with_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="async function without parameters"):
        MemoryBroker().task(_two)  # type: ignore[type-var]


async def test_publishing_without_a_run_raises_at_once() -> None:
    with pytest.raises(NotServing, match="is not being served"):
        await MemoryBroker().publish(1, "numbers")


async def test_a_header_that_is_no_string_is_refused(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    async with Runtime(broker).open():
        with pytest.raises(TypeError, match="header 'n' of a message is 1"):
            await broker.publish(1, "numbers", headers={"n": 1})  # type: ignore[dict-item]
    assert broker.server.messages("numbers") == []


@pytest.mark.promise("P1")
@pytest.mark.parametrize("field", ["key", "reply_to", "correlation_id", "message_id", "content_type"])
async def test_text_that_no_wire_can_carry_is_refused_at_the_caller_and_not_in_a_batch_with_others(
    autojump_clock: MockClock, field: str
) -> None:
    broker = MemoryBroker()
    async with Runtime(broker).open():
        with pytest.raises(ValueError, match=f"{field} of a message is .*UTF-8"):
            await broker.publish(1, "numbers", **{field: "\ud800"})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="UTF-8"):
            await broker.publish(1, "numbers", headers={"name": "\udc80"})
        await broker.publish(2, "numbers")
    assert [message.body for message in broker.server.messages("numbers")] == [b"2"]


@pytest.mark.promise("P8")
async def test_a_body_that_does_not_decode_is_set_aside_and_its_neighbours_are_handled(
    autojump_clock: MockClock,
) -> None:
    broker, seen = MemoryBroker(), []

    @broker.subscriber("numbers")
    async def handle(number: int) -> None:
        seen.append(number)

    app = Runtime(broker)
    async with app.open():
        for body in (b"1", b"{not json", b'"a string"', b"2"):
            await broker.publish(body, "numbers", headers={"tenant": "acme"})
        await until(lambda: len(broker.server.messages("numbers.rejected")) == 2)
        # A hot loop would hand out the same message again and again.
        await trio.sleep(60)
        (status,) = app.status().broker("memory").subscriptions
        assert (status.received, status.acked, status.rejected, status.unsettled) == (4, 2, 2, 0)
        assert status.ready
        await broker.publish(3, "numbers")
        await until(lambda: 3 in seen)
    assert sorted(seen) == [1, 2, 3]
    rejected = broker.server.messages("numbers.rejected")
    assert {message.body for message in rejected} == {b"{not json", b'"a string"'}
    for message in rejected:
        assert message.headers["tenant"] == "acme"
        assert message.headers["rejected-from"] == "numbers/default"
        assert "its body does not decode" in message.headers["rejected-reason"]


@pytest.mark.promise("P8")
@pytest.mark.parametrize("ordered_by", [None, "key"])
async def test_a_failing_message_is_tried_a_few_times_ever_later_and_then_set_aside(
    autojump_clock: MockClock, ordered_by: Any
) -> None:
    broker = MemoryBroker()
    tried: list[tuple[int, float]] = []

    @broker.subscriber("numbers", ordered_by=ordered_by)
    async def handle(number: int, message: Message) -> None:
        tried.append((message.attempt, trio.current_time()))
        raise ValueError("the number is odd")

    async with Runtime(broker).open():
        await broker.publish(1, "numbers", key="k")
        await trio.sleep(60)
    assert [attempt for attempt, _ in tried] == list(range(1, MAX_ATTEMPTS + 1))
    waits = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(tried)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6])
    (message,) = broker.server.messages("numbers.rejected")
    assert message.headers["rejected-reason"] == "failed 5 times, the last time with ValueError: the number is odd"


@pytest.mark.promise("P1")
@pytest.mark.parametrize("ordered_by", [None, "key"])
async def test_an_unreachable_broker_in_a_handler_burns_no_attempts(autojump_clock: MockClock, ordered_by: Any) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []
    times: list[float] = []

    @broker.subscriber("numbers", ordered_by=ordered_by)
    async def handle(number: int, message: Message) -> None:
        attempts.append(message.attempt)
        times.append(trio.current_time())
        if len(attempts) <= 3 * MAX_ATTEMPTS:
            raise BrokerUnavailable("the other one is away")

    async with Runtime(broker).open():
        await broker.publish(1, "numbers", key="k")
        await trio.sleep(60)
    assert attempts == [1] * (3 * MAX_ATTEMPTS + 1)
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= PAUSE
    assert broker.server.messages("numbers.rejected") == []


async def test_two_groups_of_one_topic_each_see_every_message(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    seen: dict[str, list[int]] = {"a": [], "b": []}

    @broker.subscriber(Topic("numbers", group="a"))
    async def a(number: int) -> None:
        seen["a"].append(number)

    @broker.subscriber(Topic("numbers", group="b"))
    async def b(number: int) -> None:
        seen["b"].append(number)

    async with Runtime(broker).open():
        for number in range(3):
            await broker.publish(number, "numbers")
        await until(lambda: len(seen["a"]) == len(seen["b"]) == 3)
    assert {group: sorted(numbers) for group, numbers in seen.items()} == {"a": [0, 1, 2], "b": [0, 1, 2]}
