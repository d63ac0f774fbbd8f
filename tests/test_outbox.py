"""Publishing: returning means confirmed, and every other end says which it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from adapters.memory import MemoryBroker
from runtime import BrokerUnavailable, OutcomeUnknown, Rejected, Runtime, SessionLost, Unroutable
from runtime.adapter import Outgoing
from runtime.message import Message
from runtime.outbox import MAX_BATCH

from .bench.waiting import until
from .fakes import FakeBroker, Place

pytestmark = pytest.mark.promise("P5")


@asynccontextmanager
async def _served(broker: FakeBroker) -> AsyncIterator[FakeBroker]:
    async with Runtime(broker, grace=1).open():
        yield broker


def _bodies(broker: FakeBroker) -> list[bytes]:
    return [message.body for message in broker.published]


async def test_publish_returns_the_id_when_the_broker_has_confirmed(autojump_clock: MockClock) -> None:
    async with _served(FakeBroker()) as broker:
        broker.stuck.add("publish")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_free_later, broker, 5)
            began = trio.current_time()
            id = await broker.publish(b"x", "done")
        assert trio.current_time() - began == pytest.approx(5)
        assert [message.id for message in broker.published] == [id]


async def _free_later(broker: FakeBroker, seconds: float) -> None:
    await trio.sleep(seconds)
    broker.unreachable = None
    broker.free("publish", "open")


async def test_while_disconnected_publish_waits(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.unreachable = SessionLost("nobody there")
    async with _served(broker), trio.open_nursery() as nursery:
        nursery.start_soon(_free_later, broker, 20)
        await broker.publish(b"x", "done")
        assert trio.current_time() >= 20
    assert _bodies(broker) == [b"x"]


async def test_at_the_limit_a_message_that_was_not_sent_is_certainly_not_sent(autojump_clock: MockClock) -> None:
    broker = FakeBroker(publish_limit=4)
    broker.unreachable = SessionLost("nobody there")
    async with _served(broker):
        began = trio.current_time()
        with pytest.raises(BrokerUnavailable, match=r"within 4 s for message m to 'done': nobody there"):
            await broker.publish(b"x", "done", message_id="m")
        assert trio.current_time() - began == pytest.approx(4)
        broker.unreachable = None
        await trio.sleep(60)
    assert (broker.published, broker.times("publish")) == ([], [])


async def test_at_the_limit_a_message_that_was_sent_has_an_unknown_outcome(autojump_clock: MockClock) -> None:
    async with _served(FakeBroker(publish_limit=4)) as broker:
        broker.stuck.add("publish")
        began = trio.current_time()
        with pytest.raises(OutcomeUnknown):
            await broker.publish(b"x", "done")
        assert trio.current_time() - began == pytest.approx(4)
        broker.free("publish")
        await trio.sleep(60)
        assert len(broker.times("publish")) == 1, "it was sent again"


async def test_a_session_lost_after_sending_makes_the_outcome_unknown_and_nothing_is_sent_again(
    autojump_clock: MockClock,
) -> None:
    async with _served(FakeBroker()) as broker:
        broker.publish_failures.append(SessionLost("reset by peer"))
        with pytest.raises(OutcomeUnknown, match="reset by peer"):
            await broker.publish(b"x", "done")
        await broker.publish(b"y", "done")
    assert _bodies(broker) == [b"y"]


async def test_what_the_adapter_knows_was_not_sent_is_sent_again_in_its_order(autojump_clock: MockClock) -> None:
    async with _served(FakeBroker()) as broker:
        await until(lambda: broker.sessions)
        broker.publish_failures += [SessionLost("broken pipe", sent=False)] * 3
        broker.stuck.add("publish")
        outbox = broker.live().outbox
        letters = [outbox.post(_outgoing(id)) for id in "012"]
        await wait_all_tasks_blocked()
        letters += [outbox.post(_outgoing(id)) for id in "34"]  # they gather behind the batch that comes back
        broker.free("publish")
        for letter in letters:
            await outbox.confirm(letter)
    assert [message.id for message in broker.published] == list("01234")
    assert len(broker.sessions) == 4


async def test_a_publish_cancelled_before_it_was_sent_is_never_sent(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    broker.unreachable = SessionLost("nobody there")
    async with _served(broker) as broker:
        with trio.move_on_after(3) as scope:
            await broker.publish(b"x", "done")
        assert scope.cancelled_caught
        broker.unreachable = None
        await broker.publish(b"y", "done")
    assert _bodies(broker) == [b"y"]


async def test_a_publish_cancelled_and_found_unsent_by_the_adapter_is_not_sent_again(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker()
    async with _served(broker):
        broker.stuck.add("publish")
        broker.publish_failures.append(SessionLost("broken pipe", sent=False))
        with trio.move_on_after(3) as scope:
            await broker.publish(b"x", "done")
        assert scope.cancelled_caught
        assert len(broker.times("publish")) == 1
        broker.free("publish")
        await broker.publish(b"y", "done")
    assert _bodies(broker) == [b"y"]


async def test_each_message_of_a_batch_gets_its_own_answer(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    answers = {"a": None, "b": Unroutable("no such queue"), "c": Rejected("too large"), "d": None}
    broker.verdict = lambda outgoing: answers[outgoing.message.id]
    results: dict[str, str] = {}

    async def publish(id: str) -> None:
        try:
            results[id] = await broker.publish(b"", "done", message_id=id)
        except Rejected as error:
            results[id] = str(error)

    async with _served(broker):
        await until(lambda: broker.sessions)
        async with trio.open_nursery() as nursery:
            for id in answers:
                nursery.start_soon(publish, id)
        assert len(broker.times("publish")) == 1
    assert results == {"a": "a", "b": "no such queue", "c": "too large", "d": "d"}


async def test_letters_leave_in_the_order_of_posting_and_in_bounded_batches(autojump_clock: MockClock) -> None:
    async with _served(FakeBroker()) as broker:
        outbox = broker.live().outbox
        letters = [outbox.post(_outgoing(str(number))) for number in range(2 * MAX_BATCH + 1)]
        for letter in letters:
            await outbox.confirm(letter)
        assert len(broker.times("publish")) == 3
    assert [message.id for message in broker.published] == [letter.outgoing.message.id for letter in letters]


async def test_a_broker_that_takes_nothing_at_all_shows_in_the_status_and_once_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker()
    app = Runtime(broker)
    async with app.open():
        broker.verdict = lambda outgoing: BrokerUnavailable("out of memory")
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="out of memory"):
                await broker.publish(b"x", "done")
        assert app.status().broker("fake").publish_error == "out of memory"
        assert caplog.text.count("publishes are refused: out of memory") == 1
        broker.verdict = lambda outgoing: None
        await broker.publish(b"x", "done")
        assert app.status().broker("fake").publish_error is None


async def test_while_the_broker_takes_no_messages_publishes_wait_unsent_and_it_shows(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(publish_limit=30)
    app = Runtime(broker)
    async with app.open():
        broker.stuck.add("writable")
        with trio.move_on_after(5) as caller:
            await broker.publish(b"cancelled", "done")
        assert caller.cancelled_caught
        with pytest.raises(BrokerUnavailable, match=r"within 30 s .* out of memory"):
            await broker.publish(b"too long", "done")
        assert app.status().broker("fake").publish_error == "it is out of memory"
        assert caplog.text.count("publishes are refused: it is out of memory") == 1
        assert not broker.times("publish")
        broker.free("writable")
        await wait_all_tasks_blocked()
        assert app.status().broker("fake").publish_error is None
        await broker.publish(b"x", "done")
    assert _bodies(broker) == [b"x"]


async def test_a_session_lost_while_its_broker_takes_no_messages_costs_no_publish(autojump_clock: MockClock) -> None:
    async with _served(FakeBroker()) as broker, trio.open_nursery() as nursery:
        await until(lambda: broker.sessions)
        broker.stuck.add("writable")
        nursery.start_soon(broker.publish, b"x", "done")
        await wait_all_tasks_blocked()
        broker.stuck.clear()
        broker.lose()
    assert _bodies(broker) == [b"x"]


@pytest.mark.promise("P2")
async def test_the_end_of_the_run_answers_every_waiting_publish(autojump_clock: MockClock) -> None:
    broker = FakeBroker()
    answers: list[type[BaseException]] = []

    async def publish() -> None:
        try:
            await broker.publish(b"x", "done")
        except (BrokerUnavailable, OutcomeUnknown) as error:
            answers.append(type(error))

    async with trio.open_nursery() as callers:
        async with Runtime(broker, grace=1).open():
            await until(lambda: broker.sessions)
            broker.stuck.add("publish")
            callers.start_soon(publish)
            await wait_all_tasks_blocked()
            callers.start_soon(publish)
            await wait_all_tasks_blocked()
        ended = trio.current_time()
    assert answers == [OutcomeUnknown, BrokerUnavailable]
    assert trio.current_time() == ended


async def test_an_adapter_that_breaks_leaves_no_caller_waiting(autojump_clock: MockClock) -> None:
    broker = FakeBroker()

    def choke(outgoing: Outgoing) -> None:
        raise ZeroDivisionError("a bug in the adapter")

    broker.verdict = choke
    began = trio.current_time()
    answers: list[str] = []

    async def publish() -> None:
        with pytest.raises(OutcomeUnknown) as caught:
            await broker.publish(b"x", "done")
        answers.append(str(caught.value))

    async with trio.open_nursery() as callers:
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with Runtime(broker).open():
                callers.start_soon(publish)
                await trio.sleep_forever()
    assert len(answers) == 1
    assert trio.current_time() - began <= 1


async def test_nothing_is_published_of_a_cancelled_caller_on_the_embedded_broker(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    async with Runtime(broker).open():
        await broker.publish(b"first", "numbers")
        with trio.CancelScope() as scope:
            scope.cancel()
            await broker.publish(b"cancelled", "numbers")
        await broker.publish(b"last", "numbers")
    assert [message.body for message in broker.server.messages("numbers")][-1] == b"last"


def _outgoing(id: str) -> Outgoing:
    return Outgoing(Message(body=b"", id=id, destination="done"), Place("done"))
