"""The session that meets the contract: a producer, and a consumer for each group that is read."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from runtime.adapter import Held, Outgoing, Settlement, rejected_headers
from runtime.delivery import Ack, Delivery, Reject, Release
from runtime.errors import Refused, SessionLost
from runtime.services import Services, open_services

from .consumer import GroupConsumer
from .group import Group, receipt_of
from .lease import Lease
from .options import Settings
from .producer import Producer
from .receiver import TopicReceiver
from .refusals import text
from .threads import ClientThread, Leftovers
from .topics import Topic

#: Seconds that a client has for its good-byes; then its thread is left to itself.
CLOSE_LIMIT: Final = 0.45
#: Seconds after which a thread that has not come by is reported.
STUCK: Final = 5.0
#: The part of the publish limit that the library may keep a message; the rest is for telling what became of it.
KEEP: Final = 0.95
#: Seconds before a message that could not be set aside is handled again.
REJECT_AGAIN: Final = 5.0


class KafkaSession:
    """Leases are the session's: a partition belongs to the consumer that it was assigned to, and goes with it."""

    def __init__(
        self, identity: str, settings: Settings, producer: Producer, services: Services, leftovers: Leftovers
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._producer = producer
        self._services = services
        self._leftovers = leftovers
        self._groups: list[tuple[str, str | None, Group]] = []
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def open_source(
        self, source: Topic, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[TopicReceiver]:
        group = self._group(source)
        receiver = group.add(source, on_lost, again=again)
        try:
            async with open_services() as services:
                # A crashed consumer is the session's end; its subscriptions hear the reason first.
                services.start_soon(group.thread.run, name=f"{group.thread.name}: end")
                await group.join(receiver)
                yield receiver
        finally:
            group.remove(receiver)
            if not group.receivers:
                self._groups = [entry for entry in self._groups if entry[2] is not group]
                await group.thread.stop(CLOSE_LIMIT)

    def _group(self, source: Topic) -> Group:
        """The group's consumer, started if missing. Subscriptions of one group share it unless they read the same topic:
        then each is a member of its own, and they share the topic's partitions."""
        assert source.group is not None
        for name, member, group in self._groups:
            if (name, member) == (source.group, source.member):
                if not group.reads(source.names):
                    return group
                if member is not None:
                    raise Refused(
                        f"member {member!r} of group {name!r} reads {source.name} twice: give each subscription a member "
                        "of its own"
                    )
        thread = ClientThread(f"{self._identity} {source.group} consumer {next(self._numbers)}", self._leftovers)
        group = Group(source.group, source.member, self._identity, self._settings, thread)
        group.consumer.start()
        self._groups.append((source.group, source.member, group))
        return group

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        """Returns when the outcome is noted; offsets are committed from there, some times a second and when the source is
        closed. A partition's offset moves over what is settled without a gap only, so an ack may wait long for its
        commit, behind a slow neighbour, and must not hold up the acks of others."""
        await trio.lowlevel.checkpoint()
        results: list[Exception | None] = [None] * len(batch)
        touched: dict[Group, set[Lease]] = {}
        rejects: list[int] = []
        for index, item in enumerate(batch):
            if isinstance(item.outcome, Reject) and receipt_of(item.delivery).is_held:
                rejects.append(index)
            else:
                results[index] = self._settle(item, touched)
        if rejects:
            copies = [_set_aside(batch[i]) for i in rejects]
            answers = await self._producer.publish(copies, self._settings.publish_limit * KEEP)
            for index, error in zip(rejects, answers, strict=True):
                results[index] = self._settle(batch[index], touched, error)
        for group, leases in touched.items():
            group.settled(leases)
        return results

    def _settle(
        self, item: Settlement, touched: dict[Group, set[Lease]], failure: Exception | None = None
    ) -> Exception | None:
        delivery = item.delivery
        receipt = receipt_of(delivery)
        found = self._find(delivery)
        if found is None or not receipt.is_held:
            return SessionLost(f"{receipt.lease.place} was given to another consumer, which gets it again")
        group, receiver = found
        touched.setdefault(group, set()).add(receipt.lease)
        match item.outcome:
            case Release():
                receiver.release(delivery, item.outcome)
            case Reject() if failure is not None:
                # Neither settled nor lost: it is tried again, with as many attempts as it had.
                receiver.release(delivery, Release(after=REJECT_AGAIN, counted=False))
                return failure
            case Ack() | Reject():
                receipt.lease.settle(receipt)
        return None

    def _find(self, delivery: Delivery) -> tuple[Group, TopicReceiver] | None:
        place = receipt_of(delivery).lease.place
        for _, _, group in self._groups:
            if group.leases.get(place) is receipt_of(delivery).lease:
                for receiver in group.receivers.values():
                    if place.topic in receiver.source.names:
                        return group, receiver
        return None

    async def writable(self, paused: Callable[[str], None]) -> None:
        pass  # librdkafka keeps what the cluster does not take yet

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        return await self._producer.publish(batch, self._settings.publish_limit * KEEP)

    async def probe(self) -> str | None:
        """What is not well, at once: the clients watch the cluster by themselves. Only what no client recovers from ends
        the session, for every new session makes the whole group rebalance."""
        await trio.lowlevel.checkpoint()
        clients: list[Producer | GroupConsumer] = [self._producer, *(group.consumer for _, _, group in self._groups)]
        for client in clients:
            if (fatal := client.health.fatal) is not None:
                raise SessionLost(f"a client failed: {text(fatal)}")
            if (refused := client.health.refused) is not None:
                raise Refused(f"the cluster refused: {text(refused)}")
        for client in clients:
            if (since := time.monotonic() - client.thread.beat) > STUCK:
                return f"{client.thread.name} has been stuck in a call for {since:.0f} s"
            if client.health.complaint is not None:
                return client.health.complaint
        for name, _, group in self._groups:
            if group.consumer.is_out:
                return f"group {name!r} has thrown this consumer out, and has not let it in again yet"
            if group.commit_complaint is not None:
                return group.commit_complaint
        return None


@asynccontextmanager
async def open_session(identity: str, settings: Settings, leftovers: Leftovers) -> AsyncIterator[KafkaSession]:
    producer = Producer(ClientThread(f"{identity} producer", leftovers), settings.producer(identity))
    producer.start()
    try:
        async with open_services() as services:
            services.start_soon(producer.thread.run, name=f"{producer.thread.name}: end")
            await producer.connect(settings.connect_limit)
            yield KafkaSession(identity, settings, producer, services, leftovers)
    finally:
        await producer.close(CLOSE_LIMIT)


def _set_aside(item: Settlement) -> Outgoing:
    assert isinstance(item.outcome, Reject)
    delivery = item.delivery
    place = receipt_of(delivery).lease.place
    headers = rejected_headers(delivery.message, item.outcome.reason, f"{place.topic}/{delivery.source.group}")
    headers["rejected-attempt"] = str(delivery.message.attempt)
    # Sent back to its topic by a person, it begins anew.
    message = msgspec.structs.replace(delivery.message, headers=headers, attempt=1)
    return Outgoing(message, Topic(f"{place.topic}.rejected"))
