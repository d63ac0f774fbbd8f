"""Settlements: at most one for a delivery, and what a lost session does to those on their way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime import Runtime
from runtime.adapter import Settlement
from runtime.delivery import ACK, Ack, Delivery, IllegalStep, Outcome, Reject, Release, State, Step
from runtime.errors import SessionLost
from runtime.link import Link
from runtime.message import Message
from runtime.settlement import Settler

from .bench.waiting import until
from .fakes import FakeBroker, FakeSession, LastingBroker


def _delivery(name: str) -> Delivery:
    delivery = Delivery(Message(body=b"", id=name, destination="orders"), name, "orders")
    delivery.step(Step.HANDLE)
    return delivery


@pytest.mark.promise("P6")
async def test_a_lost_session_with_leases_of_its_own_sends_no_settlement_for_what_it_brought(
    autojump_clock: MockClock,
) -> None:
    broker, handled = FakeBroker(), []

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        handled.append(body)
        await trio.sleep(20)

    broker.put("a")
    app = Runtime(broker)
    async with app.open():
        await until(lambda: handled)
        broker.lose()
        await trio.sleep(19)
        (status,) = app.status().broker("fake").subscriptions
        # Delivered again, and waiting for its lost self.
        assert (broker.settlements, status.unsettled, status.running) == ([], 2, 1)
        await trio.sleep(25)
        (status,) = app.status().broker("fake").subscriptions
        assert (status.lost, status.acked) == (1, 1)
    assert broker.settlements == [("a", ACK)]


@pytest.mark.promise("P6")
async def test_with_leases_of_the_broker_settlement_goes_on_after_the_reconnect(autojump_clock: MockClock) -> None:
    broker, handled = LastingBroker(), []

    @broker.subscriber("orders")
    async def handle(body: str) -> None:
        handled.append(body)
        await trio.sleep(1)

    broker.put("a")
    app = Runtime(broker)
    async with app.open():
        await until(lambda: handled)
        broker.unreachable = SessionLost("it restarts")
        broker.lose()
        await trio.sleep(30)
        assert broker.settlements == []
        broker.unreachable = None
        await until(lambda: broker.settlements)
        (status,) = app.status().broker("fake").subscriptions
        assert (status.lost, status.acked) == (0, 1)
    assert (handled, broker.settlements) == (["a"], [("a", ACK)])


@pytest.mark.promise("P6")
@pytest.mark.parametrize(
    ("lease", "settled", "state"), [("broker", ["a", "b"], State.SETTLED), ("session", [], State.LOST)]
)
async def test_a_batch_cut_off_by_a_lost_session_is_sent_again_only_if_its_leases_outlive_it(
    autojump_clock: MockClock, lease: str, settled: list[str], state: State
) -> None:
    broker = LastingBroker() if lease == "broker" else FakeBroker()
    link, first, second = Link(), FakeSession(broker), FakeSession(broker)
    settler = Settler("fake", broker.features, link)
    deliveries, done = [_delivery("a"), _delivery("b")], []
    for delivery in deliveries:
        broker.leased[delivery.receipt] = first, "orders", delivery.message
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        link.up(first, trio.CancelScope())
        broker.stuck.add("settle")
        for delivery in deliveries:
            settler.put(delivery, ACK, lambda delivery, _: done.append(delivery))
        await wait_all_tasks_blocked()
        first.lose("the wire was cut")
        await wait_all_tasks_blocked()
        broker.free("settle")
        link.up(second, trio.CancelScope())
        await settler.flush()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert broker.settled(Ack) == settled
    assert done == deliveries
    assert [delivery.state for delivery in deliveries] == [state, state]
    assert len(settler) == 0


class _Recorder(FakeSession):
    """Records every batch, and refuses the deliveries called "gone"."""

    def __init__(self) -> None:
        super().__init__(FakeBroker())
        self.batches: list[list[tuple[str, Outcome]]] = []

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        self.batches.append([(item.delivery.message.id, item.outcome) for item in batch])
        await trio.sleep(1)
        return [SessionLost("lease gone") if item.delivery.message.id == "gone" else None for item in batch]


@pytest.mark.promise("P6")
async def test_each_item_gets_its_own_answer_and_what_gathers_meanwhile_leaves_in_one_batch(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    link, session = Link(), _Recorder()
    settler = Settler("fake", LastingBroker.features, link)
    outcomes: dict[str, Outcome] = {"a": ACK, "gone": Release(after=1), "b": Reject("bad")}
    deliveries = {name: _delivery(name) for name in outcomes}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        link.up(session, trio.CancelScope())
        settler.put(deliveries["a"], outcomes["a"], lambda *_: None)
        await wait_all_tasks_blocked()
        for name in ("gone", "b"):
            settler.put(deliveries[name], outcomes[name], lambda *_: None)
        await settler.flush()
        nursery.cancel_scope.cancel()
    assert session.batches == [[("a", ACK)], [("gone", Release(after=1)), ("b", Reject("bad"))]]
    assert {name: d.state for name, d in deliveries.items()} == {
        "a": State.SETTLED,
        "gone": State.LOST,
        "b": State.SETTLED,
    }
    assert "gone could not be settled: lease gone" in caplog.text


@pytest.mark.promise("P6")
async def test_a_delivery_that_was_lost_while_it_waited_for_a_session_is_not_settled(
    autojump_clock: MockClock,
) -> None:
    link, session, done = Link(), _Recorder(), []
    settler = Settler("fake", FakeBroker.features, link)
    lost, kept, never = _delivery("lost"), _delivery("kept"), _delivery("never")
    for delivery in (lost, kept):
        settler.put(delivery, ACK, lambda delivery, _: done.append(delivery))
    lost.step(Step.LOSE)
    never.step(Step.LOSE)
    settler.put(never, ACK, lambda delivery, _: done.append(delivery))
    assert done == [never]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        link.up(session, trio.CancelScope())
        await settler.flush()
        nursery.cancel_scope.cancel()
    assert session.batches == [[("kept", ACK)]]
    assert done == [never, lost, kept]


@pytest.mark.promise("P6")
async def test_a_batch_that_is_lost_altogether_does_not_cross_to_the_adapter(autojump_clock: MockClock) -> None:
    link, session, lost = Link(), _Recorder(), _delivery("lost")
    settler = Settler("fake", FakeBroker.features, link)
    settler.put(lost, ACK, lambda *_: None)
    lost.step(Step.LOSE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        link.up(session, trio.CancelScope())
        await settler.flush()
        nursery.cancel_scope.cancel()
    assert (session.batches, len(settler)) == ([], 0)


@pytest.mark.promise("P6")
def test_a_second_outcome_for_a_delivery_is_refused() -> None:
    settler = Settler("fake", LastingBroker.features, Link())
    delivery = _delivery("a")
    settler.put(delivery, ACK, lambda *_: None)
    with pytest.raises(IllegalStep):
        settler.put(delivery, Release(), lambda *_: None)
    assert len(settler) == 1
