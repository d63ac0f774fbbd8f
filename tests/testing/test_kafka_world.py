"""A world with Kafka in it: acks are a prefix, several topics make one subscription, a lost handler is cancelled."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from adapters.kafka import KafkaBroker, Topic
from runtime import Message, Runtime
from runtime.testing import open_test


async def test_what_was_acknowledged_behind_something_unsettled_comes_again_after_a_lost_session(
    autojump_clock: MockClock,
) -> None:
    kafka = KafkaBroker("nowhere.invalid")
    cancelled: list[str] = []

    @kafka.subscriber("orders")
    async def handle(order: str) -> None:
        try:
            await trio.sleep(10 if order == "slow" else 1)
        except trio.Cancelled:
            cancelled.append(order)
            raise

    async with open_test(Runtime(kafka)) as world:
        world.broker(kafka).disconnect(at=5)
        for order in ("first", "slow", "behind"):
            await world.publish(order, to=handle)
        await world.settled()
        started = [call.message.body for call in world.calls(handle)]
        assert sorted(started[:3]) == [b"behind", b"first", b"slow"]
        assert sorted(started[3:]) == [b"behind", b"slow"], "the first one was committed"
        assert cancelled == ["slow"], "its partition may be another process's by now"


async def test_a_subscription_of_two_topics_gets_both_and_every_group_gets_all(autojump_clock: MockClock) -> None:
    kafka = KafkaBroker("nowhere.invalid", group="web")

    @kafka.subscriber(Topic("clicks", "views"), ordered_by="key")
    async def both(body: int, message: Message) -> None: ...

    @kafka.subscriber(Topic("clicks", group="audit"))
    async def audit(body: int) -> None: ...

    async with open_test(Runtime(kafka)) as world:
        await kafka.publish(1, "clicks", key="a")
        await kafka.publish(2, "views", key="a")
        await world.settled()
        assert sorted(world.handled(both)) == [1, 2]
        assert world.handled(audit) == [1]
