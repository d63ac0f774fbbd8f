"""A group as this process sees it: one consumer, the leases it holds, and the subscriptions that share it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio
from confluent_kafka import KafkaError

from runtime.delivery import Delivery

from .consumer import Batch, GroupConsumer
from .inlet import Inlet
from .lease import Lease, Place, Receipt
from .options import Settings
from .receiver import TopicReceiver
from .refusals import refusal, text
from .threads import ClientThread
from .topics import Topic

logger = logging.getLogger("adapters.kafka")

#: Seconds after a first assignment in which a member that was given nothing counts as still being served.
SPARE: Final = 3.0


class Group:
    """Lives in Trio. All that its consumer's thread reports arrives here, in order."""

    def __init__(self, name: str, member: str | None, identity: str, settings: Settings, thread: ClientThread) -> None:
        self.name = name
        self.thread = thread
        self.leases: dict[Place, Lease] = {}
        self.receivers: dict[Inlet, TopicReceiver] = {}
        #: Why offsets cannot be committed.
        self.commit_complaint: str | None = None
        self._limit = settings.connect_limit
        config = settings.consumer(identity, name, member)
        self.consumer = GroupConsumer(thread, config, self, incremental=settings.is_incremental)

    def reads(self, topics: Sequence[str]) -> bool:
        """Whether a subscription of this group reads one of them already."""
        return any(topic in inlet.source.names for inlet in self.receivers for topic in topics)

    def add(self, source: Topic, on_lost: Callable[[Delivery], None], *, again: bool) -> TopicReceiver:
        inlet = Inlet(source, began=again)
        receiver = TopicReceiver(self, inlet, on_lost)
        self.receivers[inlet] = receiver
        return receiver

    async def join(self, receiver: TopicReceiver) -> None:
        """Return when the group has given the receiver partitions, or others and no more. Raises `Refused` or
        `SessionLost`."""
        self.consumer.joining += 1
        try:
            await self.consumer.check_topics(receiver.source.names, self._limit)
            self.consumer.add(receiver.inlet)
        finally:
            self.consumer.joining -= 1
        await receiver.joined.wait()
        # The first assignment may be of nothing, or of other topics: a cooperative group deals out in rounds.
        with trio.move_on_after(SPARE):
            await receiver.served.wait()
        receiver.check()

    def remove(self, receiver: TopicReceiver) -> None:
        """Its deliveries are lost: who reads its topics next begins with them."""
        del self.receivers[receiver.inlet]
        receiver.leave()
        self.consumer.remove(receiver.inlet)
        for place in [place for place in self.leases if place.topic in receiver.source.names]:
            self._end(self.leases.pop(place), receiver)

    def settled(self, leases: set[Lease]) -> None:
        """Something was settled in each of `leases`: commit, and let go of those that wait for it."""
        marks = {lease.place: p for lease in leases if (p := lease.offsets.position) is not None}
        if marks:
            self.consumer.mark(marks)
        for lease in leases:
            if not lease.is_open and not lease.running:
                self.consumer.drained(lease.place)

    # ---- the consumer's news -------------------------------------------------------------------------------------

    def on_batch(self, batch: Batch) -> None:
        for inlet, messages in batch:
            receiver = self.receivers.get(inlet)
            if receiver is not None:
                receiver.put(messages)

    def on_assigned(self, places: list[Place]) -> None:
        for place in places:
            self.leases[place] = Lease(place)
        topics = {place.topic for place in places}
        for receiver in self.receivers.values():
            receiver.joined.set()
            if not topics.isdisjoint(receiver.source.names):
                receiver.served.set()

    def on_revoking(self, places: list[Place]) -> None:
        for place in places:
            lease = self.leases.get(place)
            if lease is not None:
                lease.is_open = False
            if lease is None or not lease.running:
                self.consumer.drained(place)

    def on_gone(self, places: list[Place]) -> None:
        for place in places:
            lease = self.leases.pop(place, None)
            if lease is not None:
                self._end(lease, self._reader(place.topic))

    def on_topic_error(self, topic: str | None, error: KafkaError) -> None:
        logger.debug("group %s: %s: %s", self.name, topic, text(error))
        if error.code() == KafkaError._MAX_POLL_EXCEEDED or error.retriable():
            return  # the client goes on by itself
        for receiver in list(self.receivers.values()):
            if topic is None or not topic or topic in receiver.source.names:
                receiver.fail(refusal(error, f"topic {topic!r}" if topic else f"group {self.name!r}"))

    def on_commit(self, complaint: str | None) -> None:
        if complaint is not None and complaint != self.commit_complaint:
            logger.warning("group %s: %s; trying again until it works", self.name, complaint)
        elif complaint is None and self.commit_complaint is not None:
            logger.info("group %s: offsets are committed again", self.name)
        self.commit_complaint = complaint

    def _reader(self, topic: str) -> TopicReceiver | None:
        return next((r for r in self.receivers.values() if topic in r.source.names), None)

    def _end(self, lease: Lease, receiver: TopicReceiver | None) -> None:
        for delivery in lease.end():
            if receiver is not None:
                receiver.on_lost(delivery)


def receipt_of(delivery: Delivery) -> Receipt:
    assert isinstance(delivery.receipt, Receipt)
    return delivery.receipt
