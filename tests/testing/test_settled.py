"""`settled()`: when it returns, and what it raises."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from adapters.redis import RedisBroker
from runtime import (
    Message,
    OutcomeUnknown,
    Phase,
    Runtime,
)
from runtime.delivery import Reject
from runtime.testing import SetAside, open_test

from ..bench.waiting import until
from .billing import Billing, Order


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
        world.broker(one).slow(20)
        world.broker(two).slow(10)
        nursery.start_soon(two.publish, b"x", "there")

        async def later() -> None:
            await trio.sleep(5)
            await one.publish(b"x", "here")

        nursery.start_soon(later)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(100):
            await world.settled()
        assert trio.current_time() == pytest.approx(25)


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
        await until(lambda: world.record.errors)


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


async def test_settled_waits_for_a_handler_that_outlives_its_message(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("orders")
    async def handle(body: str, message: Message) -> None:
        await trio.sleep(10 if message.attempt == 1 else 1)

    async with open_test(Runtime(broker)) as world:
        await world.publish("x", to=handle)
        await trio.sleep(4)
        world.broker(broker).redeliver()
        with trio.fail_after(100):
            await world.settled()
        assert trio.current_time() == pytest.approx(11)
        assert [call.ended for call in world.calls(handle)] == pytest.approx([10, 11])


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


async def test_settled_waits_for_what_a_frozen_broker_has_still_to_do_though_nobody_waits_and_nobody_will_read_it(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker(publish_limit=2)
    async with open_test(Runtime(broker)) as world:
        world.broker(broker).freeze(for_=20)
        with pytest.raises(OutcomeUnknown):
            await broker.publish("x", "elsewhere")
        with trio.fail_after(100):
            await world.settled()
        assert trio.current_time() == pytest.approx(20)
        assert world.published("elsewhere", str) == ["x"]


async def test_settled_once_the_run_stops_does_not_wait_for_a_source_that_was_never_opened(
    memory: Billing, autojump_clock: MockClock
) -> None:
    async with open_test(memory.app, plan=lambda world: world.broker(memory.broker).refuse()) as world:
        await world.publish(Order(1), to="orders")
        with trio.move_on_after(100) as scope:
            await world.settled()
        assert scope.cancelled_caught
        memory.app.stop()
        with trio.fail_after(100):
            await world.settled()


async def test_settled_does_not_wait_for_what_a_group_that_will_start_at_the_end_will_never_see(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber(Topic("orders", start="end"))
    async def handle(body: str) -> None: ...

    async with open_test(Runtime(broker), plan=lambda world: world.broker(broker).refuse(for_=5)) as world:
        await world.publish("early", to="orders")
        await world.settled()
        assert trio.current_time() == 0
