"""The core's scenarios: small applications, used from start to end, to be cancelled at every point on the way.

Each uses one broker, and writes into `confirmed` the ids that its publishes returned. After a run `confirmed_is_there`
holds besides the sweep's own invariants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from adapters.kafka import KafkaBroker
from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import OutcomeUnknown, Runtime
from runtime.broker import Broker
from runtime.testing import World, open_test

from ..fakes import FakeBroker

MakeBroker = Callable[[], Broker[Any]]
Scenario = Callable[[MakeBroker, list[str]], Callable[[], Awaitable[None]]]

BROKERS: dict[str, MakeBroker] = {
    # Leases of the session; of the broker; without counts and groups; with acks that are a prefix and cancels when lost.
    "memory": MemoryBroker,
    "redis": lambda: RedisBroker("redis://nowhere.invalid"),
    "plain": FakeBroker,
    "kafka": lambda: KafkaBroker("nowhere.invalid"),
}


def confirmed_is_there(confirmed: list[str]) -> Callable[[World], None]:
    """The check that no confirmed message is lost."""

    def check(world: World) -> None:
        there = {message.id for message in world.published("done")}
        missing = [message_id for message_id in confirmed if message_id not in there]
        assert not missing, f"confirmed and not there: {missing}"

    return check


def publish(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """Many publishers at once, none of them a handler."""

    async def scenario() -> None:
        broker = make()
        confirmed.clear()

        async def one(number: int) -> None:
            confirmed.append(await broker.publish(number, "done"))

        @broker.subscriber("done")
        async def read(body: int) -> None: ...

        async with open_test(Runtime(broker)) as world, trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(one, number)
            await world.settled()

    return scenario


def handle(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """More messages than may run at once, each published on; cascades to a second handler."""

    async def scenario() -> None:
        broker = make()
        confirmed.clear()

        @broker.subscriber("orders", concurrency=2, prefetch=3)
        async def order(number: int) -> None:
            await trio.sleep(0.1)
            confirmed.append(await broker.publish(number, "done"))

        @broker.subscriber("done", concurrency=1)
        async def done(number: int) -> None:
            await trio.sleep(0.1)

        async with open_test(Runtime(broker)) as world:
            for number in range(6):
                await world.publish(number, to=order)
            await world.settled()
            assert sorted(world.handled(done)) == list(range(6))

    return scenario


def fail(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """One message succeeds late, one never, one does not decode; all keep their order within a key."""

    async def scenario() -> None:
        broker = make()
        confirmed.clear()
        tries = 0

        @broker.subscriber("orders", concurrency=2, ordered_by="key")
        async def order(number: int) -> None:
            nonlocal tries
            tries += number == 1
            if number == 2 or (number == 1 and tries < 3):
                raise ValueError(number)

        async with open_test(Runtime(broker), collect_errors=True) as world:
            for number in range(4):
                await world.publish(number, to=order, key="a" if number % 2 else "b")
            await world.publish("no number", to=order, key="a")
            await world.settled(collect_errors=True)
            assert world.handled(order) == [0, 1, 3]
            assert len(world.published("orders.rejected")) == 2

    return scenario


def disconnect(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """The line is cut while handlers run and publish, acks and confirms are lost, and all leases run out once."""

    async def scenario() -> None:
        broker = make()
        confirmed.clear()

        @broker.subscriber("orders", concurrency=2)
        async def order(number: int) -> None:
            await trio.sleep(1)
            try:
                confirmed.append(await broker.publish(number, "done"))
            except OutcomeUnknown:
                pass  # it is there or it is not; this handler does not mind

        @broker.subscriber("done")
        async def done(number: int) -> None: ...

        async with open_test(Runtime(broker)) as world:
            line = world.broker(broker)
            line.disconnect(at=0.5, for_=2)
            line.freeze(at=4.5, for_=1)
            for number in range(4):
                await world.publish(number, to=order)
            line.lose_next_ack()
            await world.settled()
            line.lose_next_confirm()
            await world.publish(4, to=order)
            await trio.sleep(0.5)
            line.redeliver()
            await world.settled()
            assert set(world.handled(order)) == set(range(5))

    return scenario


def drain(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """A drain with handlers that finish, one that the grace cuts off, and messages taken and not begun."""

    async def scenario() -> None:
        broker = make()
        confirmed.clear()

        @broker.subscriber("orders", concurrency=2, prefetch=4)
        async def order(number: int) -> None:
            await trio.sleep(1 if number else 60)
            confirmed.append(await broker.publish(number, "done"))

        async with open_test(Runtime(broker, grace=5)) as world:
            for number in range(6):
                await world.publish(number, to=order)
            await trio.sleep(0.5)
            world.app.stop("the scenario says so")
            await trio.sleep(1)

    return scenario


def hard_stop(make: MakeBroker, confirmed: list[str]) -> Callable[[], Awaitable[None]]:
    """A block left by an error in the middle of everything, a drain begun just before."""

    class Enough(Exception):
        pass

    async def scenario() -> None:
        broker = make()
        confirmed.clear()

        @broker.subscriber("orders", concurrency=2, prefetch=4)
        async def order(number: int) -> None:
            confirmed.append(await broker.publish(number, "done"))
            await trio.sleep(10)

        try:
            async with open_test(Runtime(broker)) as world:
                for number in range(6):
                    await world.publish(number, to=order)
                await trio.sleep(0.5)
                world.app.stop()
                await trio.sleep(0.5)
                raise Enough
        except Enough:
            pass

    return scenario


SCENARIOS: list[Scenario] = [publish, handle, fail, disconnect, drain, hard_stop]
