"""A world with RabbitMQ in it: exchanges route, what nobody gets is refused, leases end with the session."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from adapters.rabbitmq import Exchange, Queue, RabbitBroker
from runtime import Runtime, Unroutable
from runtime.testing import open_test

EVENTS = Exchange("events", "topic")


async def test_an_exchange_gives_each_queue_what_is_bound_for_it(autojump_clock: MockClock) -> None:
    rabbit = RabbitBroker("amqp://nowhere.invalid")

    @rabbit.subscriber(Queue("billing", bindings=[EVENTS.binding("order.*")]))
    async def bill(event: str) -> None: ...

    @rabbit.subscriber(Queue("audit", bindings=[EVENTS.binding("#")]))
    async def audit(event: str) -> None: ...

    async with open_test(Runtime(rabbit)) as world:
        await rabbit.publish("made", EVENTS, key="order.made")
        await rabbit.publish("late", EVENTS, key="parcel.late")
        await world.settled()
        assert world.handled(bill) == ["made"]
        assert sorted(world.handled(audit)) == ["late", "made"]


async def test_what_no_queue_gets_is_unroutable_unless_that_is_wanted(autojump_clock: MockClock) -> None:
    rabbit = RabbitBroker("amqp://nowhere.invalid")
    async with open_test(Runtime(rabbit)) as world:
        with pytest.raises(Unroutable, match="no queue gets"):
            await rabbit.publish("made", EVENTS, key="order.made")
        await rabbit.publish("made", Exchange("events", "topic", mandatory=False), key="order.made")
        await rabbit.publish("kept", "a queue that the publish declares")
        assert len(world.published("a queue that the publish declares")) == 1


async def test_a_lost_session_loses_its_leases_and_its_count_of_attempts(autojump_clock: MockClock) -> None:
    rabbit = RabbitBroker("amqp://nowhere.invalid")
    fail = True

    @rabbit.subscriber("orders")
    async def handle(order: int) -> None:
        nonlocal fail
        if fail:
            raise ValueError("not yet")

    async with open_test(Runtime(rabbit), collect_errors=True) as world:
        world.broker(rabbit).disconnect(at=0.7)  # after the attempts at 0, 0.2 and 0.6
        await world.publish(1, to=handle)
        await trio.sleep(0.7)
        fail = False
        await world.settled()
        assert [call.message.attempt for call in world.calls(handle)] == [1, 2, 3, 1]
