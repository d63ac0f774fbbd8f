"""The simulated server and its session: the adapter contract, kept by a broker's `Features` and routing rule alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, Topic
from adapters.redis import RedisBroker
from runtime import Broker, Message, Runtime, SessionLost, Unroutable
from runtime.adapter import Outgoing, Receiver, Session, Settlement
from runtime.delivery import ACK, Delivery, Outcome, Reject, Release
from runtime.dial import Dialer
from runtime.testing import World, open_test

from ..fakes import FakeBroker, Place
from .brokers import LastingBroker, StrictBroker


class FanOutBroker(FakeBroker):
    """Publishes to "all" reach every source that is open, and a source named "a+b" reads two logs."""

    def reading(self, source: Place) -> Any:
        reading = super().reading(source)
        return type(reading)(tuple(source.name.split("+")))

    def route(self, message: Message, destination: Place, declared: Collection[Place]) -> Sequence[str]:
        return [source.name for source in declared] if destination.name == "all" else [destination.name]


@asynccontextmanager
async def bare_world(broker: Broker[Any]) -> AsyncIterator[World]:
    """A world whose application has no subscriptions, so that the test can be the runtime."""
    async with open_test(Runtime(broker)) as world:
        yield world
        # No handler, so none that could have returned before an acknowledgement.
        found, world.record.violations = world.record.violations, []
        assert [violation for violation in found if "its handler did not return" not in violation] == []


@asynccontextmanager
async def opened_session(world: World, broker: Broker[Any]) -> AsyncIterator[Session]:
    async with world.broker(broker).open_session("test", Dialer()) as session:
        yield session


class Consumer:
    """What the runtime is to an adapter: it keeps what it holds, and hears what is lost."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.held: dict[Any, Delivery] = {}
        self.lost: list[str] = []

    @asynccontextmanager
    async def open(self, session: Session) -> AsyncIterator[Receiver]:
        def on_lost(delivery: Delivery) -> None:
            self.lost.append(delivery.message.id)
            self.held.pop(delivery.receipt, None)

        async with session.open_source(self.source, self.held, on_lost, again=False, prefetch=100) as receiver:
            yield receiver

    async def receive(self, receiver: Receiver, most: int = 10) -> list[Delivery]:
        with trio.fail_after(100):
            deliveries = await receiver.receive(most)
        self.held |= {delivery.receipt: delivery for delivery in deliveries}
        return list(deliveries)

    async def settle(self, session: Session, outcome: Outcome, *deliveries: Delivery) -> list[Exception | None]:
        for delivery in deliveries:
            self.held.pop(delivery.receipt, None)
        return list(await session.settle([Settlement(delivery, outcome) for delivery in deliveries]))


def message(id: str, destination: str = "a") -> Message:
    return Message(body=id.encode(), id=id, destination=destination)


async def publish(session: Session, destination: Any, *ids: str) -> list[Exception | None]:
    return list(await session.publish([Outgoing(message(id, destination.name), destination) for id in ids]))


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]


A = Place("a")


# ---- what is handed out ------------------------------------------------------------------------------------------


async def test_receive_hands_out_in_order_and_never_more_than_asked_for() -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, A, *"12345")
        assert receiver.lag == 5
        assert ids(await consumer.receive(receiver, 2)) == ["1", "2"]
        assert ids(await consumer.receive(receiver, 9)) == ["3", "4", "5"]
        assert receiver.lag == 0
        await consumer.settle(session, ACK, *consumer.held.values())


async def test_two_logs_of_one_source_are_bounded_together() -> None:
    broker, consumer = FanOutBroker(), Consumer(Place("a+b"))
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, Place("a"), "1", "2")
        await publish(session, Place("b"), "3", "4")
        assert ids(await consumer.receive(receiver, 3)) == ["1", "2", "3"]
        assert ids(await consumer.receive(receiver, 3)) == ["4"]
        await consumer.settle(session, ACK, *consumer.held.values())


async def test_a_cancelled_receive_has_taken_nothing() -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, A, "1")
        with trio.CancelScope() as scope:
            scope.cancel()
            await receiver.receive(1)
        assert scope.cancelled_caught
        assert receiver.lag == 1


async def test_routing_is_by_the_brokers_rule_over_the_sources_that_were_opened() -> None:
    broker, one, two = FanOutBroker(), Consumer(Place("a")), Consumer(Place("b"))
    async with bare_world(broker) as world, opened_session(world, broker) as session:
        async with one.open(session) as first, two.open(session) as second:
            await publish(session, Place("all"), "1")
            await publish(session, Place("b"), "2")
            assert ids(await one.receive(first)) == ["1"]
            assert ids(await two.receive(second)) == ["1", "2"]
            assert len(world.published("all")) == 1
            await one.settle(session, ACK, *one.held.values())
            await two.settle(session, ACK, *two.held.values())


async def test_what_nobody_would_receive_is_unroutable_and_the_rest_of_its_batch_is_not() -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    async with bare_world(broker) as world, opened_session(world, broker) as session, consumer.open(session):
        batch = [Outgoing(message("1"), A), Outgoing(message("2", "b"), Place("b")), Outgoing(message("3"), A)]
        first, second, third = await session.publish(batch)
        assert (first, third) == (None, None)
        assert isinstance(second, Unroutable)
        assert "message 2 → nowhere" in world.timeline()
        assert [m.id for m in world.published("a")] == ["1", "3"]


# ---- what is settled ---------------------------------------------------------------------------------------------


async def test_what_is_released_comes_back_counted_or_not_and_not_before_it_is_due(autojump_clock: MockClock) -> None:
    broker, consumer = MemoryBroker(), Consumer(Topic("a"))
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, Topic("a"), "1")
        seen = []
        for outcome in (Release(), Release(counted=False), Release(after=30), Release(after=5, counted=False), ACK):
            (delivery,) = await consumer.receive(receiver)
            seen.append((delivery.message.attempt, trio.current_time()))
            assert await consumer.settle(session, outcome, delivery) == [None]
        assert seen == [(1, 0), (2, 0), (2, 0), (3, 30), (3, 35)]


async def test_what_is_released_for_a_while_does_not_hold_up_what_comes_meanwhile(autojump_clock: MockClock) -> None:
    broker, consumer = MemoryBroker(), Consumer(Topic("a"))
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, Topic("a"), "1")
        await consumer.settle(session, Release(after=30), *await consumer.receive(receiver))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.receive, receiver)
            await trio.sleep(10)
            await publish(session, Topic("a"), "2")
        assert trio.current_time() == 10
        assert ids(list(consumer.held.values())) == ["2"]
        await consumer.settle(session, Release(), *consumer.held.values())


async def test_what_is_rejected_is_set_aside_with_its_reason_and_where_it_came_from() -> None:
    broker, consumer = MemoryBroker(), Consumer(Topic("a", group="g"))
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, Topic("a"), "1")
        await consumer.settle(session, Reject("it was bad"), *await consumer.receive(receiver))
        (aside,) = world.published("a.rejected")
        assert (aside.id, aside.body) == ("1", b"1")
        assert aside.headers == {"rejected-reason": "it was bad", "rejected-from": "a/g"}
        world.record.errors.clear()  # there was no handler to raise anything


@pytest.mark.parametrize("make", [StrictBroker, LastingBroker])
async def test_a_settlement_needs_its_lease(make: type[FakeBroker]) -> None:
    broker, consumer = make(), Consumer(A)
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, A, "1")
        (first,) = await consumer.receive(receiver)
        world.broker(broker).redeliver()
        assert consumer.lost == ["1"]
        (error,) = await consumer.settle(session, Release(), first)
        assert isinstance(error, SessionLost)
        assert world.settlements == []
        (second,) = await consumer.receive(receiver)
        assert second.receipt != first.receipt
        assert await consumer.settle(session, Release(), second) == [None]


async def test_a_settlement_is_safe_to_repeat_when_its_answer_was_lost_where_the_lease_outlives_the_session(
    autojump_clock: MockClock,
) -> None:
    broker, consumer = LastingBroker(), Consumer(A)
    async with bare_world(broker) as world:
        line = world.broker(broker)
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            await publish(session, A, "1")
            (delivery,) = await consumer.receive(receiver)
            line.slow(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear_nothing, session, Settlement(delivery, Release(after=5)))
                await trio.testing.wait_all_tasks_blocked()
                line.disconnect()
        assert len(world.settlements) == 1
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            assert consumer.lost == []
            assert await consumer.settle(session, Release(after=5), delivery) == [None]
            assert receiver.lag == 1
        assert len(world.settlements) == 1


async def hear_nothing(session: Session, settlement: Settlement) -> None:
    with pytest.raises(SessionLost):
        await session.settle([settlement])


@pytest.mark.parametrize("make", [StrictBroker, LastingBroker])
async def test_a_settlement_that_is_repeated_although_it_was_answered_is_a_broken_promise(
    make: type[FakeBroker],
) -> None:
    broker, consumer = make(), Consumer(A)
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        await publish(session, A, "1")
        (delivery,) = await consumer.receive(receiver)
        assert await consumer.settle(session, Release(after=5), delivery) == [None]
        (error,) = await consumer.settle(session, Release(after=5), delivery)
        assert isinstance(error, SessionLost)
        assert world.record.violations == ["message 1 was settled twice"]
        world.record.violations.clear()


# ---- sessions ----------------------------------------------------------------------------------------------------


async def test_what_a_session_held_goes_back_in_its_order_with_the_session_or_stays_leased() -> None:
    for broker in (StrictBroker(), LastingBroker()):
        consumer = Consumer(A)
        async with bare_world(broker) as world:
            line = world.broker(broker)
            async with opened_session(world, broker) as session, consumer.open(session) as receiver:
                await publish(session, A, *"123")
                await consumer.receive(receiver, 2)
                line.disconnect()
                with pytest.raises(SessionLost, match="cut by the test"):
                    await receiver.receive(1)
            async with opened_session(world, broker) as session:
                if broker.features.lease == "session":
                    consumer.held.clear()
                async with consumer.open(session) as receiver:
                    got = await consumer.receive(receiver)
                    assert ids(got) == (["1", "2", "3"] if broker.features.lease == "session" else ["3"])
                    assert [delivery.message.attempt for delivery in got] == [1] * len(got)
                    assert await consumer.settle(session, Release(), *consumer.held.values()) == [None] * 3
            assert consumer.lost == []


async def test_what_was_handed_out_and_is_not_held_is_handed_out_again_on_the_next_session() -> None:
    broker, consumer = LastingBroker(), Consumer(A)
    async with bare_world(broker) as world:
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            await publish(session, A, "1", "2")
            await receiver.receive(1)  # and forgotten
            await consumer.receive(receiver, 1)
            world.broker(broker).disconnect()
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            (delivery,) = await consumer.receive(receiver)
            assert (delivery.message.id, delivery.message.attempt) == ("1", 2)
            await consumer.settle(session, Release(), *consumer.held.values())


async def test_every_wait_on_a_session_ends_when_it_is_lost(autojump_clock: MockClock) -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    lost: list[str] = []

    async def wait(what: Any, *arguments: Any) -> None:
        with pytest.raises(SessionLost, match="cut by the test"):
            await what(*arguments)
        lost.append(what.__name__)

    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        line = world.broker(broker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, receiver.receive, 1)
            await trio.testing.wait_all_tasks_blocked()
            line.freeze(for_=100)
            nursery.start_soon(wait, session.probe)
            nursery.start_soon(wait, session.publish, [Outgoing(message("1"), A)])
            nursery.start_soon(wait, session.settle, [])
            line.disconnect(at=7)
        assert trio.current_time() == 7
        assert sorted(lost) == ["probe", "publish", "receive", "settle"]
        with pytest.raises(SessionLost) as caught:
            await session.publish([Outgoing(message("2"), A)])
        assert not caught.value.sent


async def test_every_operation_is_a_checkpoint() -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    async with (
        bare_world(broker) as world,
        opened_session(world, broker) as session,
        consumer.open(session) as receiver,
    ):
        with trio.testing.assert_checkpoints():
            await publish(session, A, "1")
        with trio.testing.assert_checkpoints():
            deliveries = await consumer.receive(receiver)
        with trio.testing.assert_checkpoints():
            await consumer.settle(session, Release(), *deliveries)
        with trio.testing.assert_checkpoints():
            await session.probe()


async def test_a_source_that_is_closed_with_unsettled_messages_on_a_sound_session_is_a_broken_promise() -> None:
    broker, consumer = StrictBroker(), Consumer(A)
    async with bare_world(broker) as world, opened_session(world, broker) as session:
        async with consumer.open(session) as receiver:
            await publish(session, A, "1", "2")
            await consumer.receive(receiver)
        assert world.record.violations == ["delivered and never settled: 1, 2"]
        world.record.violations.clear()


async def test_a_lease_that_runs_out_between_two_sessions_is_told_when_the_source_is_open_again() -> None:
    broker, consumer = LastingBroker(), Consumer(A)
    async with bare_world(broker) as world:
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            await publish(session, A, "1")
            await consumer.receive(receiver)
            world.broker(broker).disconnect()
        world.broker(broker).redeliver()
        assert consumer.lost == []  # it is on_lost's promise to be called while the source is open
        async with opened_session(world, broker) as session, consumer.open(session) as receiver:
            assert consumer.lost == ["1"]
            await consumer.settle(session, Release(), *await consumer.receive(receiver))


async def test_leases_run_out_on_the_line_of_one_broker_only_though_another_reads_the_same_source() -> None:
    one, two = RedisBroker("redis://same.invalid"), RedisBroker("redis://same.invalid")
    first, second = Consumer(one.source("a")), Consumer(two.source("a"))
    async with open_test(Runtime(one, two)) as world:
        async with opened_session(world, one) as session, first.open(session) as receiver:
            async with opened_session(world, two) as other_session, second.open(other_session) as other_receiver:
                await publish(session, one.source("a"), "1", "2")
                await first.receive(receiver, 1)
                await second.receive(other_receiver, 1)
                world.broker(one).redeliver()
                assert (first.lost, second.lost) == (["1"], [])
                assert await second.settle(other_session, Release(), *second.held.values()) == [None]
