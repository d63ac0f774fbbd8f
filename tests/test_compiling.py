"""From declarations to a run: what cannot work is refused at the start, before any I/O."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from runtime import BrokerUnavailable, ConfigurationError, Router, Runtime, SessionLost

from .bench.waiting import until
from .fakes import FakeBroker


async def _one(body: bytes) -> None: ...
async def _other(body: bytes) -> None: ...


@pytest.mark.promise("P7")
async def test_two_handlers_on_one_source_and_group_are_refused() -> None:
    broker = MemoryBroker()
    broker.subscriber("orders")(_one)
    broker.subscriber(Topic("orders", group="default"))(_other)
    with pytest.raises(ConfigurationError, match=r"_other and .*_one both subscribe orders/default on 'memory'"):
        await Runtime(broker).serve()


async def test_two_handlers_on_one_source_are_refused_across_routers_too() -> None:
    broker, router = MemoryBroker(), Router()
    broker.subscriber("orders")(_one)
    router.subscriber("orders")(_other)
    app = Runtime(broker)
    app.include(router, broker)
    with pytest.raises(ConfigurationError, match="both subscribe orders/default"):
        await app.serve()


async def test_a_publisher_that_nothing_subscribes_is_refused() -> None:
    broker = MemoryBroker()
    broker.publisher("done")(_one)
    with pytest.raises(ConfigurationError, match=r"_one is a publisher of 'done' on 'memory', but nothing subscribes"):
        await Runtime(broker).serve()


async def test_a_refused_start_can_be_mended_and_tried_again(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    broker.publisher("done")(_one)
    app = Runtime(broker)
    with pytest.raises(ConfigurationError):
        await app.serve()
    broker.subscriber("orders")(_one)
    async with app.open() as run:
        await until(lambda: run.status().ready)


async def test_brokers_of_one_name_are_told_apart(autojump_clock: MockClock) -> None:
    app = Runtime(MemoryBroker(), MemoryBroker(), MemoryBroker(name="other"))
    async with app.open() as run:
        assert [broker.name for broker in run.status().brokers] == ["memory", "memory-2", "other"]


@pytest.mark.promise("P1")
async def test_a_result_waits_for_its_broker_and_the_handler_is_not_run_again(autojump_clock: MockClock) -> None:
    source, sink = MemoryBroker(), FakeBroker("sink", publish_limit=1)
    sink.unreachable = SessionLost("nobody there")
    calls = 0

    @source.subscriber("orders")
    @sink.publisher("invoices")
    async def bill(order: int) -> int:
        nonlocal calls
        calls += 1
        return order

    app = Runtime(source, sink)
    async with app.open():
        await source.publish(7, "orders")
        await trio.sleep(600)
        with pytest.raises(BrokerUnavailable):
            await sink.publish(8, "invoices")
        (subscription,) = app.status().broker("memory").subscriptions
        assert (calls, subscription.running, subscription.acked) == (1, 1, 0)
        sink.unreachable = None
        await until(lambda: sink.published)
        await until(lambda: app.status().broker("memory").subscriptions[0].acked == 1)
    assert ([message.body for message in sink.published], calls) == ([b"7"], 1)


async def test_the_results_of_a_bound_method_are_published(autojump_clock: MockClock) -> None:
    class Shop:
        async def bill(self, number: int) -> int:
            return number

    broker, shop = MemoryBroker(), Shop()
    broker.publisher("invoices")(shop.bill)
    broker.subscriber("orders")(shop.bill)
    async with Runtime(broker).open():
        await broker.publish(1, "orders")
        await until(lambda: broker.server.messages("invoices"))
