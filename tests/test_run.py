"""One run: the order of its drain, what the grace cuts off, and a tear-down that is quick and loses nothing."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from adapters.memory import MemoryBroker
from runtime import Message, NotServing, Phase, Run, Runtime, SessionLost, current_run
from runtime.delivery import Ack, Release

from .bench.waiting import until
from .fakes import FakeBroker, LastingBroker


@pytest.mark.promise("P9")
async def test_a_drain_goes_pollers_then_handlers_then_settlements_then_connections(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        broker.note(f"handling {body.decode()}")
        await trio.sleep(3)
        await broker.publish(body, "done")
        broker.note(f"handled {body.decode()}")

    broker.put("a")
    app = Runtime(broker)
    async with app.open() as run:
        await until(run.unfinished)
        run.stop()
        broker.put("b")
        broker.note("stopped")
    assert [event for event, _ in broker.events if event not in ("connect", "open orders")] == [
        "handling a",
        "stopped",
        "publish",
        "handled a",
        "close orders",
        "disconnect",
    ]
    assert broker.settled(Ack) == ["a"]
    assert [message.id for message in broker.queues["orders"]] == ["b"]
    assert run.report.exit_status == 0


@pytest.mark.promise("P9", "P1")
async def test_while_two_brokers_drain_the_handlers_of_each_publish_to_the_other(autojump_clock: MockClock) -> None:
    one, two = FakeBroker("one"), FakeBroker("two")

    @one.subscriber("orders")
    async def from_one(body: bytes) -> None:
        await trio.sleep(2)
        await two.publish(body, "done")

    @two.subscriber("orders")
    async def from_two(body: bytes) -> None:
        await trio.sleep(9)
        await one.publish(body, "done")

    one.put("a")
    two.put("b")
    app = Runtime(one, two)
    async with app.open() as run:
        await until(lambda: len(run.unfinished()) == 2)
    assert [message.body for message in two.published] == [b"a"]
    assert [message.body for message in one.published] == [b"b"]
    assert (one.settled(Ack), two.settled(Ack)) == (["a"], ["b"])


@pytest.mark.promise("P9", "P6")
async def test_a_handler_cut_off_by_the_grace_is_named_reported_and_its_message_delivered_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []

    @broker.subscriber("numbers")
    async def slow(number: int, message: Message) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 1:
            await trio.sleep_forever()

    app = Runtime(broker, grace=4)
    async with app.open() as run:
        await broker.publish(1, "numbers")
        await until(run.unfinished)
        stopped = trio.current_time()
        run.stop()
        assert run.phase is Phase.DRAINING
    assert trio.current_time() - stopped == pytest.approx(4, abs=0.1)
    assert (run.report.cancelled, run.report.exit_status) == (1, 3)
    assert any("the grace of 4 s is over; cancelling" in line and "slow" in line for line in caplog.messages)
    async with app.open():
        await until(lambda: len(attempts) == 2)
    assert attempts == [1, 2]


@pytest.mark.promise("P9", "P7")
@pytest.mark.parametrize("ordered_by", [None, "key"])
async def test_what_was_taken_and_not_started_is_given_back_uncounted_and_in_order(
    autojump_clock: MockClock, ordered_by: None
) -> None:
    broker = MemoryBroker()
    seen: list[tuple[int, int]] = []

    @broker.subscriber("numbers", concurrency=1, prefetch=5, ordered_by=ordered_by)
    async def handle(number: int, message: Message) -> None:
        seen.append((number, message.attempt))
        await trio.sleep(1)

    for number in range(8):
        message = Message(body=b"%d" % number, id=str(number), destination="numbers", key="k")
        broker.server.publish(message, "numbers")
    app = Runtime(broker)
    async with app.open() as run:
        await until(lambda: app.status().broker("memory").subscriptions[0].unsettled == 5)
        run.stop()
    assert len(seen) == 1
    assert run.report.exit_status == 0
    async with app.open():
        await until(lambda: len(seen) == 8)
    assert seen == [(number, 1) for number in range(8)]


@pytest.mark.promise("P9", "P6")
async def test_a_message_that_arrives_in_the_moment_of_the_stop_is_not_started(autojump_clock: MockClock) -> None:
    broker, together = MemoryBroker(), []

    @broker.subscriber("numbers", ordered_by="key")
    async def handle(number: int) -> None:
        together.append(len(run.unfinished()))
        await trio.sleep(1)

    app = Runtime(broker)
    async with app.open() as run:
        await broker.publish(1, "numbers", key="k")
        await until(run.unfinished)
        # The poller has been woken up with this one, and has not run yet, when the intake closes.
        broker.server.publish(Message(body=b"2", id="2", destination="numbers", key="k"), "numbers")
        run.stop()
    assert together == [1]
    async with app.open() as run:
        await until(lambda: len(together) == 2)


@pytest.mark.promise("P2", "P6")
@pytest.mark.parametrize("prefetch", [4, 20])  # the poller waits for room, or for messages
async def test_a_cancel_tears_down_within_a_second_and_the_next_run_gets_every_message(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, prefetch: int
) -> None:
    broker = MemoryBroker()
    started: list[int] = []
    patience = 0.0

    @broker.subscriber("numbers", concurrency=2, prefetch=prefetch)
    async def handle(number: int) -> None:
        started.append(number)
        await trio.sleep(patience)

    app = Runtime(broker)
    patience = 1000
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        for number in range(8):
            await broker.publish(number, "numbers")
        await until(lambda: len(started) == 2)
        cancelled = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - cancelled <= 1
    assert sorted(started) == [0, 1]
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []
    patience = 0
    started.clear()
    async with app.open():
        await until(lambda: len(started) == 8)
    assert sorted(started) == list(range(8))


@pytest.mark.promise("P2", "P6")
@pytest.mark.parametrize("round", range(5))  # Trio shuffles the tasks of one tick
async def test_a_message_that_arrives_in_the_moment_of_a_cancel_is_not_started(
    autojump_clock: MockClock, round: int
) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []

    @broker.subscriber("numbers")
    async def handle(number: int, message: Message) -> None:
        attempts.append(message.attempt)

    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await until(lambda: app.status().ready)
        broker.server.publish(Message(body=b"1", id="1", destination="numbers"), "numbers")
        nursery.cancel_scope.cancel()
    assert attempts == []
    async with app.open():
        await until(lambda: attempts)
    assert attempts == [1]


@pytest.mark.promise("P2", "P6")
async def test_a_cancel_still_sends_the_releases_before_it_closes_the_connection(autojump_clock: MockClock) -> None:
    broker = LastingBroker()

    @broker.subscriber("orders", concurrency=1, prefetch=2)
    async def handle(body: bytes) -> None:
        await trio.sleep_forever()

    broker.put("a", "b")
    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await until(lambda: app.status().broker("fake").subscriptions[0].unsettled == 2)
        nursery.cancel_scope.cancel()
    assert sorted(broker.settlements) == [("a", Release(counted=True)), ("b", Release(counted=False))]


@pytest.mark.promise("P2")
@pytest.mark.parametrize("stuck", ["open", "receive", "settle", "publish", "probe"])
async def test_a_cancel_ends_whatever_hangs_in_the_broker_within_a_second(
    autojump_clock: MockClock, stuck: str
) -> None:
    broker = LastingBroker(probe_interval=1)
    broker.stuck.add(stuck)

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None: ...

    @broker.task
    async def tick() -> None:
        await broker.publish(b"x", "done")

    broker.put("a")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(Runtime(broker).serve)
            await trio.sleep(1.5)
            cancelled = trio.current_time()
            scope.cancel()
    assert trio.current_time() - cancelled <= 1


@pytest.mark.promise("P2", "P9")
@pytest.mark.parametrize("stuck", ["open", "receive", "settle", "publish"])
async def test_a_drain_ends_within_two_seconds_of_the_grace_whatever_hangs(
    autojump_clock: MockClock, stuck: str
) -> None:
    broker = LastingBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        await broker.publish(body, "done")

    broker.put("a")
    broker.stuck.add(stuck)
    app = Runtime(broker, grace=3)
    async with app.open() as run:
        await trio.sleep(1)
        stopped = trio.current_time()
        run.stop()
    assert trio.current_time() - stopped <= 3 + 2
    assert run.report.exit_status == {"open": 0, "receive": 0, "settle": 1, "publish": 3}[stuck]


@pytest.mark.promise("P9")
async def test_a_broker_that_comes_back_during_the_drain_still_gets_its_settlements(
    autojump_clock: MockClock,
) -> None:
    broker = LastingBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None:
        broker.unreachable = SessionLost("it restarts")
        broker.lose()
        await trio.sleep(1)

    broker.put("a")
    app = Runtime(broker)
    async with app.open() as run:
        await until(run.unfinished)
        run.stop()
        await trio.sleep(10)
        assert (run.phase, broker.settlements) == (Phase.DRAINING, [])
        broker.unreachable = None
    assert broker.settled(Ack) == ["a"]
    assert run.report.exit_status == 0


async def test_a_handler_that_does_not_heed_a_cancel_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()

    @broker.subscriber("numbers")
    async def deaf(number: int) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)

    async with Runtime(broker, grace=1).open() as run:
        await broker.publish(1, "numbers", message_id="m-1")
        await until(run.unfinished)
    assert any(
        line.startswith("still running although cancelled") and "deaf (message m-1)" in line for line in caplog.messages
    )


async def test_a_handler_can_stop_the_run_it_is_in(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()

    @broker.subscriber("numbers")
    async def last(number: int) -> None:
        current_run().stop("that was the last one")

    async with trio.open_nursery() as nursery:
        run: Run = await nursery.start(Runtime(broker).serve)
        await broker.publish(1, "numbers")
    assert run.report.reason == "that was the last one"
    with pytest.raises(NotServing):
        current_run()


async def test_publishing_after_the_run_raises(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    async with Runtime(broker).open():
        live = broker.live()
    with pytest.raises(NotServing):
        await broker.publish(1, "numbers")
    with pytest.raises(trio.ClosedResourceError):
        live.outbox.post(None)  # type: ignore[arg-type]
