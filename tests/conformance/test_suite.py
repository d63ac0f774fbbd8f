"""The suite is worth something only if it fails: adapters that are each broken in one way, and the claim that says so."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Unpack

import msgspec
import pytest
import trio

from adapters.memory import MemoryBroker, MemoryServer, Topic
from adapters.memory.server import Entry
from adapters.memory.session import MemoryReceiver, MemorySession
from runtime.adapter import Held, Outgoing, Settlement
from runtime.broker import BrokerOptions
from runtime.delivery import ACK, Delivery, Reject, Release
from runtime.dial import Dialer
from runtime.testing.conformance import AdapterConformance, Rig
from runtime.testing.conformance.ending import CALLS

Claim = Callable[..., Awaitable[None]]


class BrokenReceiver(MemoryReceiver):
    """The base of the broken ones is whole."""

    def _deliver(self, entry: Entry) -> Delivery:
        delivery = super()._deliver(entry)
        delivery.message = msgspec.structs.replace(delivery.message, **self.changed(delivery))
        return delivery

    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {}


class BrokenSession(MemorySession):
    receiver_type: ClassVar[type[MemoryReceiver]] = BrokenReceiver

    @classmethod
    @asynccontextmanager
    async def open(cls, server: MemoryServer) -> AsyncIterator[MemorySession]:
        yield cls(server)

    @asynccontextmanager
    async def open_source(
        self, source: Topic, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[MemoryReceiver]:
        async with super().open_source(source, held, on_lost, again=again, prefetch=prefetch) as receiver:
            receiver.__class__ = self.receiver_type
            yield receiver


class BrokenRig(Rig):
    features = MemoryBroker.features
    patience = 0.5

    def __init__(self, session_type: type[BrokenSession]) -> None:
        self.server = MemoryServer()
        self._session_type = session_type

    def make_broker(self, **options: Unpack[BrokerOptions]) -> MemoryBroker:
        session_type = self._session_type

        class BrokenBroker(MemoryBroker):
            def open_session(self, identity: str, dialer: Dialer) -> Any:
                return session_type.open(self.server)

        return BrokenBroker(server=self.server, **options)

    def source(self, name: str, group: str | None = None) -> Topic:
        return Topic(name, group=group or "default")


# ---- receivers that are broken -----------------------------------------------------------------------------------


class ForgetsTheAttempt(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"attempt": 1}


class LosesHeaders(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"headers": {}}


class MistakesAHeaderForAField(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"key": delivery.message.headers.get("key", delivery.message.key)}


class LosesTheContentType(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"content_type": None}


class RoundsTimes(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"deadline": delivery.message.deadline and float(int(delivery.message.deadline))}


class EndsABodyAtNul(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"body": delivery.message.body.partition(b"\0")[0]}


class TruncatesLargeBodies(BrokenReceiver):
    def changed(self, delivery: Delivery) -> dict[str, Any]:
        return {"body": delivery.message.body[: 1 << 20]}


class DropsWhatACancelledReadTook(BrokenReceiver):
    async def receive(self, most: int) -> Sequence[Delivery]:
        deliveries = await super().receive(most)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            for delivery in deliveries:
                del self.taken[delivery.receipt]
            raise
        return deliveries


class ReturnsMoreThanAsked(BrokenReceiver):
    async def receive(self, most: int) -> Sequence[Delivery]:
        return await super().receive(most + 1)


class ReturnsNothing(BrokenReceiver):
    async def receive(self, most: int) -> Sequence[Delivery]:
        await trio.lowlevel.checkpoint()
        return [self._deliver(entry) for entry in self.group.take(most, trio.current_time())]


class ReturnsInReverse(BrokenReceiver):
    async def receive(self, most: int) -> Sequence[Delivery]:
        return (await super().receive(most))[::-1]


class AcknowledgesWhenItIsClosed(BrokenReceiver):
    def close(self) -> None:
        self.taken.clear()
        super().close()


class TakesAheadAndKeepsIt(BrokenReceiver):
    """What it took ahead goes to nobody when it is closed."""

    _ahead: list[Entry]

    async def receive(self, most: int) -> Sequence[Delivery]:
        self._ahead = getattr(self, "_ahead", [])
        if not self._ahead:
            first = await super().receive(1)
            self._ahead = self.group.take(1000, trio.current_time())
            return first
        await trio.lowlevel.checkpoint()
        ready, self._ahead = self._ahead[:most], self._ahead[most:]
        return [self._deliver(entry) for entry in ready]


class LeavesATask(BrokenReceiver):
    async def receive(self, most: int) -> Sequence[Delivery]:
        try:
            return await super().receive(most)
        except trio.Cancelled:
            trio.lowlevel.spawn_system_task(trio.sleep_forever)
            raise


class SaysThatOthersWait(BrokenReceiver):
    @property
    def lag(self) -> int:
        return 5


def with_receiver(broken: type[BrokenReceiver]) -> type[BrokenSession]:
    return type(f"{broken.__name__}Session", (BrokenSession,), {"receiver_type": broken})


# ---- sessions that are broken ------------------------------------------------------------------------------------


class ConfirmsBeforeItStores(BrokenSession):
    _nursery: trio.Nursery

    @classmethod
    @asynccontextmanager
    async def open(cls, server: MemoryServer) -> AsyncIterator[MemorySession]:
        async with trio.open_nursery() as nursery:
            session = cls(server)
            session._nursery = nursery
            yield session
            nursery.cancel_scope.cancel()

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await trio.lowlevel.checkpoint()
        self._nursery.start_soon(super().publish, batch)
        return [None] * len(batch)


class PublishesTwiceWhenCancelled(BrokenSession):
    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await super().publish(batch)
        try:
            with trio.move_on_after(0.001):
                await trio.sleep_forever()  # it has sent, and waits for the answer
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            for outgoing in batch:
                self._server.publish(outgoing.message, outgoing.source.name)
            raise
        return [None] * len(batch)


class SwapsTheGroups(BrokenSession):
    @asynccontextmanager
    async def open_source(
        self, source: Topic, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[MemoryReceiver]:
        async with super().open_source(
            replace(source, group="one"), held, on_lost, again=again, prefetch=prefetch
        ) as receiver:
            receiver._source = source
            self._receivers[source] = receiver
            yield receiver
            del self._receivers[source]


class BrokenSettlement(BrokenSession):
    def settled(self, item: Settlement) -> Settlement | None:
        return item

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        await super().settle([item for each in batch if (item := self.settled(each)) is not None])
        return [None] * len(batch)


class ForgetsToAcknowledge(BrokenSettlement):
    def settled(self, item: Settlement) -> Settlement | None:
        return None if item.outcome == ACK else item


class CountsWhatIsNotCounted(BrokenSettlement):
    def settled(self, item: Settlement) -> Settlement | None:
        outcome = item.outcome
        return Settlement(item.delivery, Release(outcome.after) if isinstance(outcome, Release) else outcome)


class IgnoresTheDelay(BrokenSettlement):
    def settled(self, item: Settlement) -> Settlement | None:
        outcome = item.outcome
        return Settlement(item.delivery, Release(0, outcome.counted) if isinstance(outcome, Release) else outcome)


class AcknowledgesWhatIsRejected(BrokenSettlement):
    def settled(self, item: Settlement) -> Settlement | None:
        return Settlement(item.delivery, ACK) if isinstance(item.outcome, Reject) else item


class LosesTheReason(BrokenSettlement):
    def settled(self, item: Settlement) -> Settlement | None:
        return Settlement(item.delivery, Reject("")) if isinstance(item.outcome, Reject) else item


class SettlesAllAlike(BrokenSettlement):
    _first: object = None

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        return await super().settle([Settlement(item.delivery, batch[0].outcome) for item in batch])


class SaysThatItSettledAfterItsEnd(BrokenSettlement):
    """Its base hides every item's error."""


class ReadsHoldUpTheRest(BrokenSession):
    """One connection for everything, on which a blocking read blocks."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.line = line = trio.Lock()

        class Receiver(BrokenReceiver):
            async def receive(self, most: int) -> Sequence[Delivery]:
                async with line:
                    return await super().receive(most)

        self.receiver_type = Receiver  # type: ignore[misc]

    async def probe(self) -> None:
        async with self.line:
            await super().probe()


class ClosesSlowly(BrokenSession):
    @classmethod
    @asynccontextmanager
    async def open(cls, server: MemoryServer) -> AsyncIterator[MemorySession]:
        try:
            yield cls(server)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.2):
                await trio.sleep_forever()


class LeavesASocketWhenItsOpeningIsCancelled(BrokenSession):
    sockets: ClassVar[list[socket.socket]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, server: MemoryServer) -> AsyncIterator[MemorySession]:
        cls.sockets.append(opened := socket.socket())
        await trio.lowlevel.checkpoint()
        try:
            yield cls(server)
        finally:
            opened.close()


class LeavesAThread(BrokenSession):
    go: ClassVar[threading.Event] = threading.Event()
    threads: ClassVar[list[threading.Thread]] = []

    @asynccontextmanager
    async def open_source(
        self, source: Topic, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[MemoryReceiver]:
        self.threads.append(thread := threading.Thread(target=self.go.wait, args=(30,)))
        thread.start()
        async with super().open_source(source, held, on_lost, again=again, prefetch=prefetch) as receiver:
            yield receiver


@contextmanager
def cleared_away() -> Iterator[None]:
    """What the broken ones leave behind is not left to the next test."""
    LeavesAThread.go.clear()
    try:
        yield
    finally:
        LeavesAThread.go.set()
        while LeavesAThread.threads:
            LeavesAThread.threads.pop().join()
        while LeavesASocketWhenItsOpeningIsCancelled.sockets:
            LeavesASocketWhenItsOpeningIsCancelled.sockets.pop().close()


# ---- what catches them -------------------------------------------------------------------------------------------

C = AdapterConformance

CAUGHT: list[tuple[type[BrokenSession], Claim, tuple[object, ...]]] = [
    (with_receiver(ForgetsTheAttempt), C.test_a_released_message_comes_again_and_its_attempt_counts, ()),
    (with_receiver(ForgetsTheAttempt), C.test_a_failed_message_is_tried_again_and_then_acknowledged, ()),
    (with_receiver(LosesHeaders), C.test_every_field_of_a_message_arrives_as_it_was_sent, ()),
    (with_receiver(MistakesAHeaderForAField), C.test_headers_are_text_under_any_name_also_the_adapters_own, ()),
    (with_receiver(LosesTheContentType), C.test_every_field_of_a_message_arrives_as_it_was_sent, ()),
    (with_receiver(RoundsTimes), C.test_every_field_of_a_message_arrives_as_it_was_sent, ()),
    (with_receiver(EndsABodyAtNul), C.test_a_body_is_bytes_whatever_they_are, (bytes(range(256)),)),
    (with_receiver(TruncatesLargeBodies), C.test_a_large_body_arrives_whole_and_holds_up_none_behind_it, ()),
    (with_receiver(DropsWhatACancelledReadTook), C.test_a_cancelled_receive_loses_nothing, ()),
    (with_receiver(ReturnsMoreThanAsked), C.test_receive_never_returns_more_than_it_was_asked_for, (3,)),
    (
        with_receiver(ReturnsMoreThanAsked),
        C.test_a_run_handles_each_message_once_within_its_bounds_and_leaves_nothing,
        (),
    ),
    (with_receiver(ReturnsNothing), C.test_receive_waits_until_there_is_a_message, ()),
    (with_receiver(ReturnsInReverse), C.test_messages_of_a_key_come_in_the_order_in_which_they_were_published, ()),
    (
        with_receiver(AcknowledgesWhenItIsClosed),
        C.test_what_is_held_when_its_session_ends_can_be_settled_on_the_next_or_comes_again,
        ("cancelled",),
    ),
    (with_receiver(AcknowledgesWhenItIsClosed), C.test_what_a_dead_consumer_held_goes_to_another, ()),
    (
        with_receiver(AcknowledgesWhenItIsClosed),
        C.test_a_lost_session_is_replaced_and_what_was_being_handled_then_counts_by_its_lease,
        (),
    ),
    (
        with_receiver(TakesAheadAndKeepsIt),
        C.test_closing_a_source_gives_back_what_was_taken_ahead_and_never_returned,
        (),
    ),
    (
        with_receiver(LeavesATask),
        C.test_a_cancel_during_any_call_ends_it_in_time_and_leaves_nothing_behind,
        (CALLS["receive"],),
    ),
    (with_receiver(SaysThatOthersWait), C.test_the_lag_is_unknown_or_goes_to_zero_when_all_is_received, ()),
    (ConfirmsBeforeItStores, C.test_a_confirmed_message_is_stored_even_if_its_sender_is_gone_at_once, ()),
    (PublishesTwiceWhenCancelled, C.test_a_cancelled_publish_has_sent_its_message_at_most_once, ()),
    (SwapsTheGroups, C.test_every_group_gets_every_message, ()),
    (ForgetsToAcknowledge, C.test_an_acknowledged_message_never_comes_again, ()),
    (ForgetsToAcknowledge, C.test_a_run_handles_each_message_once_within_its_bounds_and_leaves_nothing, ()),
    (CountsWhatIsNotCounted, C.test_an_uncounted_release_is_no_attempt, ()),
    (CountsWhatIsNotCounted, C.test_what_a_drain_takes_back_unread_goes_to_the_next_run_uncounted, ()),
    (IgnoresTheDelay, C.test_a_message_released_for_later_comes_then_and_holds_up_no_other, ()),
    (
        AcknowledgesWhatIsRejected,
        C.test_a_rejected_message_is_set_aside_whole_with_the_reason_and_never_comes_again,
        (),
    ),
    (LosesTheReason, C.test_a_rejected_message_is_set_aside_whole_with_the_reason_and_never_comes_again, ()),
    (SettlesAllAlike, C.test_each_of_a_batch_gets_its_own_outcome_across_sources, ()),
    (SaysThatItSettledAfterItsEnd, C.test_an_ended_session_does_not_say_that_it_settled, ()),
    (ReadsHoldUpTheRest, C.test_publishes_and_probes_are_answered_while_a_read_waits, ()),
    (ClosesSlowly, C.test_a_session_that_is_closed_leaves_nothing_behind, ()),
    (
        LeavesASocketWhenItsOpeningIsCancelled,
        C.test_opening_can_be_cancelled_at_any_moment_and_leaves_nothing_behind,
        (),
    ),
    (LeavesAThread, C.test_a_session_that_is_closed_leaves_nothing_behind, ()),
]


async def fails(claim: Claim, rig: Rig, *arguments: object) -> None:
    """The suite's `claim` does not hold for `rig`, and says so before anybody runs out of patience."""
    failure: BaseException | None = None
    with trio.move_on_after(20) as scope:
        try:
            await claim(AdapterConformance(), rig, *arguments)
        except* (Exception, pytest.fail.Exception) as errors:
            failure = errors
    assert not scope.cancelled_caught, "it hangs"
    assert failure is not None, "it passes"


@pytest.mark.parametrize(
    ("broken", "claim", "arguments"),
    CAUGHT,
    ids=[f"{broken.__name__}-{claim.__name__.removeprefix('test_')}" for broken, claim, _ in CAUGHT],
)
async def test_an_adapter_that_is_broken_in_one_way_does_not_pass(
    broken: type[BrokenSession], claim: Claim, arguments: tuple[object, ...]
) -> None:
    with cleared_away():
        await fails(claim, BrokenRig(broken), *arguments)


@pytest.mark.parametrize(("claim", "arguments"), [(claim, arguments) for _, claim, arguments in CAUGHT])
async def test_what_the_broken_ones_are_made_of_is_whole(claim: Claim, arguments: tuple[object, ...]) -> None:
    await claim(AdapterConformance(), BrokenRig(BrokenSession), *arguments)
