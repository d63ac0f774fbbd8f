"""Status: a frozen snapshot that tells the truth about each broker and each subscription."""

from __future__ import annotations

import dataclasses

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from runtime import LinkState, Phase, Refused, Runtime, SubscriptionState

from .bench.waiting import until
from .fakes import FakeBroker

pytestmark = pytest.mark.promise("P8")


async def test_a_snapshot_counts_what_became_of_every_message_and_does_not_change(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()

    @broker.subscriber(Topic("numbers", group="g"), concurrency=2, prefetch=3)
    async def handle(number: int) -> None:
        if number < 0:
            raise ValueError("negative")
        await trio.sleep(number)

    app = Runtime(broker)
    async with app.open():
        for body in (b"0", b"-1", b"nonsense", b"100", b"100", b"100", b"100"):
            await broker.publish(body, "numbers")
        await trio.sleep(20)
        (before,) = app.status().broker("memory").subscriptions
        assert (before.source, before.state) == ("numbers/g", SubscriptionState.RUNNING)
        assert (before.concurrency, before.prefetch, before.running, before.unsettled) == (2, 3, 2, 3)
        assert before.handler.endswith("handle")
        await trio.sleep(500)
        (after,) = app.status().broker("memory").subscriptions
        assert (after.running, after.unsettled, after.acked, after.rejected, after.lag) == (0, 0, 5, 2, 0)
        assert after.received == after.acked + after.released + after.rejected + after.lost
        assert before.running == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            before.running = 0  # type: ignore[misc]


async def test_ready_means_every_broker_connected_and_every_subscription_consuming(
    autojump_clock: MockClock,
) -> None:
    one, two = FakeBroker("one"), FakeBroker("two")
    for broker in (one, two):

        @broker.subscriber("orders")
        async def handle(body: bytes) -> None: ...

    one.stuck.add("open")
    two.broken["orders"] = Refused("WRONGTYPE")
    app = Runtime(one, two)
    async with app.open() as run:
        await trio.sleep(1)
        assert [broker.ready for broker in app.status().brokers] == [False, False]
        one.free("open")
        await until(lambda: app.status().broker("one").ready)
        assert not app.status().ready
        two.broken.clear()
        await until(lambda: app.status().ready)
        run.stop()
        assert not run.status().ready
    assert [broker.state for broker in run.status().brokers] == [LinkState.CLOSED, LinkState.CLOSED]
    assert run.status().phase is Phase.CLOSED


async def test_a_publish_that_waits_is_counted(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.stuck.add("publish")
    app = Runtime(broker)
    async with app.open(), trio.open_nursery() as nursery:
        nursery.start_soon(broker.publish, b"x", "done")
        await trio.sleep(1)
        assert app.status().broker("fake").publishing == 1
        broker.free("publish")
        await until(lambda: app.status().broker("fake").publishing == 0)


async def test_asking_for_an_unknown_broker_names_the_known_ones(autojump_clock: MockClock) -> None:
    app = Runtime(MemoryBroker(), FakeBroker())
    async with app.open():
        with pytest.raises(KeyError, match="there are: memory, fake"):
            app.status().broker("redis")
    with pytest.raises(KeyError, match="there are: none"):
        app.status().broker("memory")


async def test_a_password_is_not_shown(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.url = "fake://user:secret@here:1/"
    app = Runtime(broker)
    async with app.open():
        assert app.status().broker("fake").url == "fake://user:***@here:1/"
        assert "secret" not in repr(broker) + repr(app.status())
