"""Slots, order and owners: whatever handlers do, the bounds hold and every message is settled once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from runtime import BrokerUnavailable, Message, Runtime
from runtime.delivery import Ack, Reject, Release

from .bench.waiting import until
from .fakes import FakeBroker, PartitionedBroker

Fate = tuple[float, int]  # how long its handler takes, and how often it fails before it succeeds


@pytest.mark.promise("P6", "P7")
@settings(max_examples=60, deadline=None, database=None)
@given(
    fates=st.lists(st.tuples(st.sampled_from([0.0, 0.01, 0.5, 3.0]), st.integers(0, 6)), min_size=1, max_size=25),
    keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=25, max_size=25),
    concurrency=st.integers(1, 6),
    surplus=st.integers(0, 6),
    ordered_by=st.sampled_from([None, "key"]),
    away=st.booleans(),
)
def test_bounds_order_and_one_settlement_hold_for_any_load(
    fates: list[Fate],
    keys: list[str | None],
    concurrency: int,
    surplus: int,
    ordered_by: Literal["key"] | None,
    away: bool,
) -> None:
    broker, prefetch = FakeBroker(), concurrency + surplus
    done: list[int] = []
    running: list[int] = []
    tries: defaultdict[int, int] = defaultdict(int)
    app = Runtime(broker)

    @broker.subscriber("orders", concurrency=concurrency, prefetch=prefetch, ordered_by=ordered_by)
    async def handle(number: int) -> None:
        (status,) = app.status().broker("fake").subscriptions
        running.append(number)
        key = keys[number]
        assert len(running) == status.running <= concurrency
        assert status.unsettled <= prefetch
        if ordered_by and key is not None:
            assert [other for other in running if keys[other] == key] == [number]
        duration, failures = fates[number]
        try:
            await trio.sleep(duration)
            tries[number] += 1
            if tries[number] <= failures:
                raise BrokerUnavailable("away") if away and tries[number] == 1 else ValueError("no")
            done.append(number)
        finally:
            running.remove(number)

    async def main() -> None:
        async with app.open():
            for number in range(len(fates)):
                broker.put(str(number), key=keys[number])
                if number == len(fates) // 2:
                    await trio.sleep(1)
            await until(lambda: settled_for_good() >= len(fates), within=10_000)
            (status,) = app.status().broker("fake").subscriptions
            assert (status.unsettled, status.lost) == (0, 0)

    def settled_for_good() -> int:
        return len(broker.settled(Ack)) + len(broker.settled(Reject))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sorted(broker.settled(Ack) + broker.settled(Reject)) == sorted(map(str, range(len(fates))))
    assert sorted(map(int, broker.settled(Ack))) == sorted(done)
    if ordered_by:
        # Every message has one settlement: a retry happened in its lane, not by a release.
        assert len(broker.settlements) == len(fates)
        for key in ("a", "b", "c"):
            of_key = [number for number in done if keys[number] == key]
            assert of_key == sorted(of_key)


@pytest.mark.promise("P7")
async def test_no_more_than_prefetch_is_taken_while_handlers_hang(autojump_clock: MockClock) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders", concurrency=3, prefetch=5)
    async def handle(body: bytes) -> None:
        await trio.sleep_forever()

    broker.put(*"abcdefghij")
    app = Runtime(broker, grace=1)
    async with app.open():
        await trio.sleep(60)
        (status,) = app.status().broker("fake").subscriptions
        assert (status.running, status.unsettled, len(broker.queues["orders"])) == (3, 5, 5)


@pytest.mark.promise("P7")
async def test_an_outcome_that_cannot_be_sent_keeps_its_slot(autojump_clock: MockClock) -> None:
    broker, handled = FakeBroker(), []

    @broker.subscriber("orders", concurrency=1, prefetch=2)
    async def handle(body: bytes) -> None:
        handled.append(body)

    broker.put(*"abcdef")
    broker.stuck.add("settle")
    async with Runtime(broker).open():
        await trio.sleep(60)
        assert handled == [b"a", b"b"]
        broker.free("settle")
        await until(lambda: len(handled) == 6)


@pytest.mark.promise("P6")
async def test_nothing_is_settled_before_the_handler_and_all_its_tasks_have_ended(autojump_clock: MockClock) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 30)

    broker.put("a")
    async with Runtime(broker).open():
        await trio.sleep(29)
        assert broker.settlements == []
        await trio.sleep(2)
        assert broker.settled(Ack) == ["a"]


@pytest.mark.promise("P6")
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_lost_delivery_keeps_its_slot_and_its_keys_lane_until_its_handler_ends(
    autojump_clock: MockClock, concurrency: int
) -> None:
    broker = FakeBroker()
    began: list[tuple[str, float]] = []

    @broker.subscriber("orders", concurrency=concurrency, prefetch=8, ordered_by="key")
    async def handle(body: str) -> None:
        began.append((body, trio.current_time()))
        await trio.sleep(20)

    broker.put("a", "b", key="k")
    app = Runtime(broker)
    async with app.open():
        await until(lambda: began)
        broker.lose()
        await until(lambda: len(broker.sessions) == 2)
        await trio.sleep(10)
        (status,) = app.status().broker("fake").subscriptions
        # The lost two, and the same two delivered again.
        assert (status.running, status.unsettled, status.lost) == (1, 4, 0)
        assert [body for body, _ in began] == ["a"]
        await until(lambda: len(broker.settlements) == 2, within=100)
        assert app.status().broker("fake").subscriptions[0].lost == 2
    start = began[0][1]
    assert began == [("a", start), ("a", pytest.approx(start + 20)), ("b", pytest.approx(start + 40, abs=0.1))]
    assert broker.settled(Ack) == ["a", "b"]


async def test_a_drain_ends_the_wait_for_a_retry_and_gives_the_message_back(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []

    @broker.subscriber("numbers", ordered_by="key")
    async def handle(number: int, message: Message) -> None:
        attempts.append(message.attempt)
        raise BrokerUnavailable("the other one is away")

    app = Runtime(broker)
    async with app.open() as run:
        await broker.publish(1, "numbers", key="k")
        await until(lambda: attempts)
        await trio.sleep(0.1)
        stopped = trio.current_time()
        run.stop()
    assert trio.current_time() - stopped < 0.5
    async with app.open():
        await until(lambda: len(attempts) == 2)
    assert attempts == [1, 1]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_what_is_no_exception_is_no_failure_of_a_message_but_the_end_of_the_run(
    autojump_clock: MockClock, error: Any
) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        raise error

    broker.put("a")
    with pytest.RaisesGroup(type(error), flatten_subgroups=True):
        await Runtime(broker).serve()
    assert broker.settled(Ack) == []


@pytest.mark.promise("P6")
async def test_a_message_delivered_again_does_not_run_beside_its_lost_self_and_others_do_not_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker()
    began: list[tuple[str, float]] = []

    @broker.subscriber("orders", concurrency=4)
    async def handle(body: str) -> None:
        began.append((body, trio.current_time()))
        await trio.sleep(20 if body == "a" else 1)

    broker.put("a")
    async with Runtime(broker).open():
        await until(lambda: began)
        broker.lose()
        await until(lambda: len(broker.sessions) == 2)
        broker.lose("once more, while the second waits")
        await until(lambda: len(broker.sessions) == 3)
        broker.put("b")
        await until(lambda: len(broker.settlements) == 2, within=100)
    start = began[0][1]
    assert [body for body, _ in began] == ["a", "b", "a"]
    assert began[1][1] < start + 5
    assert began[2][1] == pytest.approx(start + 20)
    assert broker.settled(Ack) == ["b", "a"]


async def test_a_drain_gives_back_what_waits_for_its_lost_self(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    began: list[str] = []

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        began.append(body)
        await trio.sleep(20)

    broker.put("a")
    async with Runtime(broker).open() as run:
        await until(lambda: began)
        broker.lose()
        await until(lambda: len(broker.sessions) == 2 and len(run.brokers[0].subscriptions[0].dispatch.held) == 2)
        run.stop()
    assert began == ["a"]
    assert broker.settled(Release) == ["a"]
    assert run.report.cancelled == 0


@pytest.mark.parametrize("kind", [FakeBroker, PartitionedBroker])
async def test_where_a_lost_message_may_run_elsewhere_at_once_its_handler_is_cancelled_and_else_not(
    autojump_clock: MockClock, kind: type[FakeBroker]
) -> None:
    broker = kind()
    ended: list[str] = []

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        try:
            await trio.sleep(10)
        except trio.Cancelled:
            ended.append("cancelled")
            raise
        ended.append("finished")

    broker.put("a")
    app = Runtime(broker)
    async with app.open() as run:
        await until(lambda: app.status().broker("fake").subscriptions[0].running)
        broker.lose()
        await until(lambda: ended, within=20)
        await until(lambda: app.status().broker("fake").subscriptions[0].lost == 1)
        run.stop()
    assert ended[0] == ("cancelled" if kind is PartitionedBroker else "finished")


async def test_a_handler_cancelled_for_its_lost_lease_is_not_one_that_a_drain_cut_off(
    autojump_clock: MockClock,
) -> None:
    broker = PartitionedBroker()
    began = trio.Event()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        began.set()
        await trio.sleep(1000)

    broker.put("a")
    app = Runtime(broker, grace=20)
    async with app.open() as run:
        await began.wait()
        run.stop()
        broker.lose()  # found by the next probe
    assert run.report is not None
    assert (run.report.cancelled, run.report.exit_status) == (0, 0)
