"""A group's consumer and its thread: polls whatever happens, and makes every call to the client.

The callbacks of a rebalance run inside `poll`, in the thread; the whole group waits while they run, so they are bounded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from runtime.errors import SessionLost

from .health import Health
from .inlet import Inlet
from .lease import Place
from .lookups import check_topics, find_beginnings
from .refusals import refusal, text
from .threads import ClientThread
from .topics import Topic

#: Seconds that a poll waits for a record. A command waits that long: the client has nothing to wake it by.
POLL: Final = 0.05
#: Records in one crossing.
MOST: Final = 500
#: Records that may wait for one subscription before the consumer stops taking, and at which it goes on.
HIGH: Final = 1000
LOW: Final = 250
#: Seconds for which a consumer just waits when there is no room. Only then it pauses: that throws away all that the library
#: has fetched ahead, and must not happen once for every batch.
PATIENCE: Final = 0.5
#: Seconds between two commits. What was settled within them and not committed is delivered again after a crash.
COMMIT_EVERY: Final = 0.1
#: Seconds before a failed commit is tried again.
COMMIT_AGAIN: Final = 1.0
#: Seconds that a revoke waits for the handlers of its partitions.
REVOKE_LIMIT: Final = 3.0
#: Seconds for the last commit when the consumer is closed.
CLOSE_COMMIT_LIMIT: Final = 0.2

#: The group has moved on since the commit was sent.
_OVERTAKEN: Final = frozenset(
    {KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS, KafkaError.UNKNOWN_MEMBER_ID}
)

Batch = list[tuple[Inlet, list[confluent_kafka.Message]]]


class Listener(Protocol):
    """Who hears of it in Trio, in the order in which it happened."""

    def on_batch(self, batch: Batch) -> None: ...
    def on_assigned(self, places: list[Place]) -> None: ...
    def on_revoking(self, places: list[Place]) -> None:
        """Hand out nothing more of them, and `drained` each when nothing of it is being handled."""

    def on_gone(self, places: list[Place]) -> None: ...
    def on_topic_error(self, topic: str | None, error: KafkaError) -> None: ...
    def on_commit(self, complaint: str | None) -> None: ...


class GroupConsumer:
    """Trio calls what is above the line; the rest happens in the thread."""

    def __init__(self, thread: ClientThread, config: dict[str, Any], listener: Listener, *, incremental: bool) -> None:
        self.thread = thread
        self.health = Health()
        self._config = {
            **config,
            "error_cb": self.health.on_error,
            "stats_cb": self.health.on_statistics,
            "on_commit": self._on_commit,
        }
        self._listener = listener
        self._is_incremental = incremental
        #: Written by Trio: subscriptions that are about to be added. One rebalance for all is enough.
        self.joining = 0
        #: Written by the thread: the group has thrown it out, and has not let it in again. That may take the rest of a
        #: session's time-out, and until then it gets nothing.
        self.is_out = False
        # The thread's own.
        self._client: confluent_kafka.Consumer | None = None
        self._inlets: dict[str, Inlet] = {}
        self._subscribed: dict[str, Inlet] = {}
        self._assigned: set[Place] = set()
        self._draining: set[Place] = set()
        #: What to commit: for each partition the offset to go on with.
        self._marks: dict[Place, int] = {}
        #: What was committed and not answered. A rebalance may refuse it, after its partitions are gone.
        self._sent: dict[Place, int] = {}
        self._commits_out = 0
        #: How often in a row.
        self._commits_refused = 0
        self._next_commit = 0.0

    def start(self) -> None:
        self.thread.start(self._drive)

    async def check_topics(self, topics: tuple[str, ...], limit: float) -> None:
        """Return when the cluster has all of them. Raises `Refused` for one that it has not and does not make."""
        await self.thread.ask(partial(self._check_topics, topics, limit))

    def add(self, inlet: Inlet) -> None:
        self.thread.tell(lambda: self._inlets.update(dict.fromkeys(inlet.source.names, inlet)))

    def remove(self, inlet: Inlet) -> None:
        def command() -> None:
            for topic in inlet.source.names:
                self._inlets.pop(topic, None)

        self.thread.tell(command)

    def mark(self, positions: Mapping[Place, int]) -> None:
        """Everything below these offsets is settled."""
        self.thread.tell(lambda: self._mark(positions))

    def drained(self, place: Place) -> None:
        """Nothing of a partition that is being revoked is handled any more."""
        self.thread.tell(lambda: self._draining.discard(place))

    def wake(self) -> None:
        """There is room again."""
        self.thread.tell(bool)

    # ---- in the thread -------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        try:
            client = self._client = confluent_kafka.Consumer(self._config)
        except KafkaException as error:
            raise refusal(error.args[0], "the consumer's configuration was") from None
        try:
            while not self.thread.stopping:
                self._subscribe(client)
                self._take(client)
                if self.health.fatal is not None:
                    raise SessionLost(f"the consumer failed: {text(self.health.fatal)}")
                if self._marks and not self._commits_out and time.monotonic() >= self._next_commit:
                    self._commit(client)
        finally:
            self._client = None
            self._close(client)

    def _check_topics(self, topics: tuple[str, ...], limit: float) -> None:
        assert self._client is not None
        check_topics(self._client, topics, time.monotonic() + limit, self._why_not)

    def _why_not(self) -> KafkaError | None:
        """Why no question to the cluster needs to be asked again."""
        stopped = KafkaError(KafkaError._DESTROY) if self.thread.stopping else None
        return self.health.fatal or self.health.refused or stopped

    def _subscribe(self, client: confluent_kafka.Consumer) -> None:
        if self._inlets == self._subscribed or self.joining:
            return
        # A source that was closed and opened again reads from the commit, so its partitions are given back in between.
        kept = {topic: inlet for topic, inlet in self._inlets.items() if self._subscribed.get(topic) in (None, inlet)}
        assigned = {place.topic for place in self._assigned}
        wanted = {topic: inlet for topic, inlet in kept.items() if topic in self._subscribed or topic not in assigned}
        if wanted == self._subscribed:
            return  # they are on their way
        self._subscribed = wanted
        if wanted:
            callbacks = {"on_assign": self._on_assign, "on_revoke": self._on_revoke, "on_lost": self._on_lost}
            client.subscribe(sorted(wanted), **callbacks)
        else:
            client.unsubscribe()

    def _take(self, client: confluent_kafka.Consumer) -> None:
        """One round: commands, then whatever the client has."""
        self.thread.obey(0.0)
        wait = self._make_room(client)
        if wait > 0:
            # Nobody has room, or nobody reads yet: a command says when that changes, and the client is polled for its
            # callbacks alone.
            self.thread.obey(wait)
            if not all(inlet.is_paused for inlet in self._inlets.values()) or self._inlets != self._subscribed:
                return
            first = client.poll(0)
        else:
            first = client.poll(POLL)
        if first is None:
            return
        self._post([first, *client.consume(MOST - 1, 0)])

    def _make_room(self, client: confluent_kafka.Consumer) -> float:
        """Pause and resume. Returns how long to wait because nobody has room, or is there; 0 if somebody has."""
        now = time.monotonic()
        inlets = set(self._inlets.values())
        with_room = 0
        for inlet in inlets:
            waiting = inlet.waiting
            if inlet.is_paused:
                if waiting <= LOW:
                    inlet.is_paused, inlet.full_since = False, None
                    client.resume(self._partitions(inlet))
            elif waiting < HIGH:
                inlet.full_since = None
            elif inlet.full_since is None:
                inlet.full_since = now
            with_room += inlet.full_since is None
        for inlet in inlets:
            late = inlet.full_since is not None and now - inlet.full_since > PATIENCE
            if inlet.full_since is not None and not inlet.is_paused and (with_room or late):
                inlet.is_paused = True
                client.pause(self._partitions(inlet))
        return 0.0 if with_room else POLL

    def _partitions(self, inlet: Inlet) -> list[TopicPartition]:
        return [TopicPartition(*place) for place in self._assigned if self._inlets.get(place.topic) is inlet]

    def _post(self, messages: list[confluent_kafka.Message]) -> None:
        """Send what was polled across, sorted by subscription."""
        found: dict[Inlet, list[confluent_kafka.Message]] = {}
        for message in messages:
            error, topic = message.error(), message.topic()
            if error is not None:
                if error.fatal():
                    self.health.on_error(error)
                elif error.code() != KafkaError._PARTITION_EOF:
                    self.thread.report(self._listener.on_topic_error, topic, error)
            elif (inlet := self._inlets.get(topic or "")) is not None:
                found.setdefault(inlet, []).append(message)
        for inlet, its in found.items():
            inlet.posted += len(its)
        if found:
            self.thread.report(self._listener.on_batch, list(found.items()))

    # ---- commits

    def _mark(self, positions: Mapping[Place, int]) -> None:
        for place, position in positions.items():
            # No commit follows a revoke: what comes too late is dropped here, behind the revoke.
            if place in self._assigned:
                self._marks[place] = position

    def _commit(self, client: confluent_kafka.Consumer) -> None:
        offsets = [TopicPartition(*place, position) for place, position in self._marks.items()]
        self._sent.update(self._marks)
        self._marks.clear()
        self._next_commit = time.monotonic() + COMMIT_EVERY
        try:
            client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._commit_failed(error.args[0], offsets)
        else:
            self._commits_out += 1

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        self._commits_out = max(self._commits_out - 1, 0)
        for offset in offsets:
            place = Place(offset.topic, offset.partition)
            if self._sent.get(place) == offset.offset:
                del self._sent[place]
        failed = [offset for offset in offsets if offset.error is not None]
        if error is not None or failed:
            self._commit_failed(error or failed[0].error, failed or offsets)
        else:
            self._commits_refused = 0
            self.thread.report(self._listener.on_commit, None)

    def _commit_failed(self, error: Any, offsets: list[TopicPartition]) -> None:
        self._commits_refused += 1
        # A rebalance overtakes a commit now and then: the partitions that stay are committed right after.
        is_usual = error.code() in _OVERTAKEN and self._commits_refused < 3
        self._next_commit = time.monotonic() + (COMMIT_EVERY if is_usual else COMMIT_AGAIN)
        again = [offset for offset in offsets if Place(offset.topic, offset.partition) in self._assigned]
        for offset in again:
            self._marks.setdefault(Place(offset.topic, offset.partition), offset.offset)
        # Of a partition that is gone meanwhile somebody else takes care.
        if again and not is_usual:
            self.thread.report(self._listener.on_commit, f"offsets cannot be committed: {text(error)}")

    # ---- rebalances

    def _on_assign(self, client: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        places = [Place(p.topic, p.partition) for p in partitions]
        try:
            begins = find_beginnings(client, self._unread(partitions))
        except KafkaException as error:
            raise refusal(error.args[0], "finding out where new partitions begin") from None
        for partition in partitions:
            partition.offset = begins.get(Place(partition.topic, partition.partition), partition.offset)
        if begins:
            if self._is_incremental:
                client.incremental_assign(partitions)
            else:
                client.assign(partitions)
        self._assigned |= set(places)
        # A group that has settled nothing yet must not lose its place when the partition moves on.
        self._marks.update(begins)
        for inlet in self._inlets.values():
            inlet.began = True
        paused = [p for p in partitions if (i := self._inlets.get(p.topic)) is not None and i.is_paused]
        if paused:
            if not begins:
                client.incremental_assign(partitions) if self._is_incremental else client.assign(partitions)
            client.pause(paused)
        self.is_out = False
        self.thread.report(self._listener.on_assigned, places)

    def _unread(self, partitions: list[TopicPartition]) -> dict[Place, Topic]:
        """Those that may have no committed offset, and do not start at the earliest record if so."""
        places = [Place(p.topic, p.partition) for p in partitions]
        inlets = {place: inlet for place in places if (inlet := self._inlets.get(place.topic)) is not None}
        return {p: i.source for p, i in inlets.items() if i.source.start != "earliest" and not i.began}

    def _on_revoke(self, client: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        places = {Place(p.topic, p.partition) for p in partitions}
        self._draining = set(places)
        self.thread.report(self._listener.on_revoking, list(places))
        deadline = time.monotonic() + REVOKE_LIMIT
        while self._draining and not self.thread.stopping and (rest := deadline - time.monotonic()) > 0:
            self.thread.obey(min(rest, POLL), in_callback=True)
        self._draining.clear()
        marks = {place: position for place, position in {**self._sent, **self._marks}.items() if place in places}
        if marks:
            # Asynchronous: the synchronous one has no time limit. It leaves before anything that follows from the revoke,
            # on the same connection, so the partition's next owner finds it.
            try:
                client.commit(offsets=[TopicPartition(*p, o) for p, o in marks.items()], asynchronous=True)
                self._commits_out += 1
            except KafkaException as error:
                self.thread.report(self._listener.on_commit, f"the last commit failed: {text(error.args[0])}")
        self._gone(places)

    def _on_lost(self, client: confluent_kafka.Consumer, partitions: list[TopicPartition]) -> None:
        # They may have another owner already: no commit.
        self.is_out = True
        self._gone({Place(p.topic, p.partition) for p in partitions})

    def _gone(self, places: set[Place]) -> None:
        for place in places:
            self._marks.pop(place, None)
            self._sent.pop(place, None)
        self._assigned -= places
        self.thread.report(self._listener.on_gone, list(places))

    def _close(self, client: confluent_kafka.Consumer) -> None:
        self.thread.obey()
        deadline = time.monotonic() + CLOSE_COMMIT_LIMIT
        while (self._marks or self._commits_out) and time.monotonic() < deadline:
            if self._marks and not self._commits_out:
                self._commit(client)
            client.poll(0.01)
        # A commit without its answer holds `close` up, for minutes at worst; the thread's owner does not wait for that.
        client.close()
