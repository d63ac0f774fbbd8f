"""Routers: handlers that do not name a broker until they are included."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from runtime import ConfigurationError, NotServing, Router, Runtime

from .bench.waiting import until
from .fakes import LastingBroker


async def test_an_included_router_handles_publishes_and_runs_its_tasks_on_its_broker(
    autojump_clock: MockClock,
) -> None:
    router, ours, other = Router(), MemoryBroker(name="ours"), MemoryBroker(name="other")
    ran = []

    @router.subscriber("numbers")
    @router.publisher("doubled")
    async def double(number: int) -> int:
        return 2 * number

    @router.task
    async def tick() -> None:
        ran.append(await router.publish(4, "numbers"))

    app = Runtime(ours, other)
    app.include(router, ours)
    assert app.routers == (router,)
    async with app.open():
        await until(lambda: ours.server.messages("doubled"))
    assert [message.body for message in ours.server.messages("doubled")] == [b"8"]
    assert len(ran) == 1
    assert other.server.messages("doubled") == []


async def test_a_router_in_two_runs_publishes_through_the_one_it_is_called_in(autojump_clock: MockClock) -> None:
    router, brokers = Router(), [MemoryBroker(), MemoryBroker()]

    @router.subscriber("in")
    async def forward(number: int) -> None:
        await router.publish(number, "out")

    apps = [Runtime(broker) for broker in brokers]
    for app, broker in zip(apps, brokers, strict=True):
        app.include(router, broker)
    async with apps[0].open(), apps[1].open():
        await brokers[0].publish(0, "in")
        await brokers[1].publish(1, "in")
        await until(lambda: all(broker.server.messages("out") for broker in brokers))
        with pytest.raises(NotServing, match="served by 2 runs at once"):
            await router.publish(2, "out")
    assert [[m.body for m in broker.server.messages("out")] for broker in brokers] == [[b"0"], [b"1"]]


def test_including_what_cannot_work_is_refused() -> None:
    broker, router = MemoryBroker(), Router()
    app = Runtime(broker)
    with pytest.raises(ConfigurationError, match="is not a broker of this Runtime"):
        app.include(router, MemoryBroker())
    app.include(router, broker)
    with pytest.raises(ConfigurationError, match="is included already"):
        app.include(router, broker)


def test_an_order_that_the_broker_cannot_keep_is_refused_when_the_router_meets_it() -> None:
    router, broker = Router(), LastingBroker()

    @router.subscriber("orders", ordered_by="key")
    async def handle(body: bytes) -> None: ...

    with pytest.raises(ConfigurationError, match="ordered_by='key', which LastingBroker cannot promise"):
        Runtime(broker).include(router, broker)
