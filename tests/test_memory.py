"""The embedded broker: a log with consumer groups, in this process."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker, MemoryServer, Topic
from runtime import ConfigurationError, Message, Runtime, SessionLost

from .bench.waiting import until


def _collect(broker: MemoryBroker, topic: Topic | str, seen: list[int], **options: int) -> Runtime:
    @broker.subscriber(topic, **options)  # type: ignore[arg-type]
    async def handle(number: int) -> None:
        seen.append(number)

    return Runtime(broker)


def test_a_url_or_a_topic_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has only memory://"):
        MemoryBroker("memory://somewhere")
    with pytest.raises(ConfigurationError, match="does not know redis:// URLs"):
        MemoryBroker("redis://localhost")
    with pytest.raises(ConfigurationError, match="name of a Topic is ''"):
        Topic("")
    with pytest.raises(ConfigurationError, match='"beginning" or "end"'):
        Topic("numbers", start="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="7 is not a Topic"):
        MemoryBroker().subscriber(7)(_handle)  # type: ignore[arg-type]


async def _handle(number: int) -> None: ...


async def test_members_of_a_group_share_the_messages(autojump_clock: MockClock) -> None:
    server, seen = MemoryServer(), ([], [])  # type: tuple[MemoryServer, tuple[list[int], list[int]]]
    apps = [_collect(MemoryBroker(server=server), "numbers", mine) for mine in seen]
    publisher = MemoryBroker(server=server)
    async with apps[0].open(), apps[1].open(), Runtime(publisher).open():
        for number in range(20):
            await publisher.publish(number, "numbers")
        await until(lambda: len(seen[0]) + len(seen[1]) == 20)
    assert sorted(seen[0] + seen[1]) == list(range(20))
    assert all(seen)


@pytest.mark.parametrize(("start", "expected"), [("beginning", [1, 2]), ("end", [2])])
async def test_a_new_group_begins_where_its_topic_says(
    autojump_clock: MockClock, start: str, expected: list[int]
) -> None:
    broker, seen = MemoryBroker(), []  # type: tuple[MemoryBroker, list[int]]
    broker.server.publish(Message(body=b"1", id="1", destination="numbers"), "numbers")
    app = _collect(broker, Topic("numbers", start=start), seen)  # type: ignore[arg-type]
    async with app.open():
        await until(lambda: app.status().ready)
        await broker.publish(2, "numbers")
        await until(lambda: len(seen) == len(expected))
        await trio.sleep(1)
    assert seen == expected


@pytest.mark.promise("P7")
async def test_a_log_keeps_only_its_newest_messages_and_a_group_keeps_all_of_its_own(
    autojump_clock: MockClock,
) -> None:
    broker, seen = MemoryBroker(server=MemoryServer(retain=3)), []  # type: tuple[MemoryBroker, list[int]]
    broker.server.group("numbers", "default", "beginning")
    for number in range(10):
        broker.server.publish(Message(body=b"%d" % number, id=str(number), destination="numbers"), "numbers")
    assert [message.id for message in broker.server.messages("numbers")] == ["7", "8", "9"]
    async with _collect(broker, "numbers", seen).open():
        await until(lambda: len(seen) == 10)
    assert sorted(seen) == list(range(10))


@pytest.mark.promise("P6")
async def test_what_a_lost_session_held_is_delivered_again_in_order_beside_its_running_handlers(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()
    seen: list[tuple[int, int]] = []

    @broker.subscriber("numbers", concurrency=2, prefetch=6, ordered_by="key")
    async def handle(number: int, message: Message) -> None:
        seen.append((number, message.attempt))
        await trio.sleep(2)

    app = Runtime(broker)
    async with app.open() as run:
        for number in range(3):
            await broker.publish(number, "numbers", key="k")
        await until(run.unfinished)
        link = broker.live().link
        link.lost(await link.session(), SessionLost("as another broker would"))
        await until(lambda: app.status().broker("memory").subscriptions[0].acked == 3, within=60)
        (status,) = app.status().broker("memory").subscriptions
        assert (status.lost, status.unsettled, status.error) == (3, 0, None)
    assert seen == [(0, 1), (0, 2), (1, 2), (2, 2)]


async def test_a_released_message_waits_for_its_delay_and_does_not_hold_up_others(autojump_clock: MockClock) -> None:
    broker, times = MemoryBroker(), {}  # type: tuple[MemoryBroker, dict[int, list[float]]]

    @broker.subscriber("numbers", concurrency=1)
    async def handle(number: int) -> None:
        times.setdefault(number, []).append(trio.current_time())
        if number == 1 and len(times[1]) == 1:
            raise ValueError("once")

    async with Runtime(broker).open():
        await broker.publish(1, "numbers")
        await broker.publish(2, "numbers")
        await until(lambda: len(times.get(1, [])) == 2)
    first, second = times[1]
    assert second - first == pytest.approx(0.2)
    assert times[2][0] - first < 0.1


async def test_a_delay_does_not_outlive_the_run_whose_clock_it_was_measured_by(autojump_clock: MockClock) -> None:
    broker, attempts = MemoryBroker(), []  # type: tuple[MemoryBroker, list[int]]

    @broker.subscriber("numbers")
    async def handle(number: int, message: Message) -> None:
        attempts.append(message.attempt)
        if message.attempt < 4:
            raise ValueError("not yet")

    app = Runtime(broker)
    async with app.open() as run:
        await broker.publish(1, "numbers")
        await until(lambda: len(attempts) == 3)
        await until(lambda: not run.unfinished())
    async with app.open():
        restarted = trio.current_time()
        await until(lambda: len(attempts) == 4)
        assert trio.current_time() - restarted < 0.5
    assert attempts == [1, 2, 3, 4]
