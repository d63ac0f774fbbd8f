"""The producer and its thread: many messages in flight, their reports in bursts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import confluent_kafka
import trio
from confluent_kafka import KafkaError, KafkaException

from runtime.adapter import Outgoing
from runtime.errors import SessionLost

from . import wire
from .health import Health
from .refusals import UNKNOWN_TOPIC, publish_error, refusal
from .threads import ClientThread

#: Seconds that the thread waits in the library for reports while there are any to come. A new batch waits that long.
_REPORT_WAIT: Final = 0.005
#: Seconds that it waits for commands when none are; between two of them statistics and errors are seen.
_IDLE_WAIT: Final = 0.05
#: Seconds for what is in flight when the producer is closed.
_FLUSH_LIMIT: Final = 0.15
#: Seconds for a new topic to be found or made by the cluster.
_TOPIC_LIMIT: Final = 1.0


class Producer:
    """Publishes for one session. Trio calls `publish`; the rest happens in the thread."""

    def __init__(self, thread: ClientThread, config: dict[str, Any]) -> None:
        self.thread = thread
        self.health = Health()
        self._config = {**config, "error_cb": self.health.on_error, "stats_cb": self.health.on_statistics}
        #: What callers in Trio wait for.
        self._open: set[_Batch] = set()
        self._is_closed = False
        # The thread's own.
        self._client: confluent_kafka.Producer | None = None
        self._batches: set[_Batch] = set()
        self._finished: list[_Batch] = []
        self._known_topics: set[str] = set()

    async def publish(self, items: Sequence[Outgoing], limit: float) -> list[Exception | None]:
        """One result per item. After `limit` seconds what has no report is purged, and its result says whether it had
        been sent. After a cancel too: nothing waits in the library that nobody waits for."""
        if self._is_closed:
            raise SessionLost("the session is over", sent=False)
        batch = _Batch(items, time.monotonic() + limit)
        self._open.add(batch)
        self.thread.tell(partial(self._send, batch))
        try:
            await batch.done.wait()
        except trio.Cancelled:
            batch.deadline = 0.0
            raise
        finally:
            self._open.discard(batch)
        if batch.left:
            raise SessionLost("the session ended before the report")
        return batch.results

    def start(self) -> None:
        self.thread.start(self._drive)

    async def close(self, limit: float) -> None:
        """End the thread within `limit` seconds, or leave it to itself; whoever waits hears of it."""
        self._is_closed = True
        try:
            await self.thread.stop(limit)
        finally:
            _wake(self._open)

    async def connect(self, limit: float) -> None:
        """Return when a server of the cluster has answered. Raises `Refused` or `SessionLost`."""
        await self.thread.ask(partial(self._connect, limit))

    # ---- in the thread -------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        try:
            client = self._client = confluent_kafka.Producer(self._config)
        except KafkaException as error:
            raise refusal(error.args[0], "the producer's configuration was") from None
        try:
            while not self.thread.stopping:
                self.thread.obey(0.0 if self._batches else _IDLE_WAIT)
                client.poll(_REPORT_WAIT if self._batches else 0)
                self._purge_late(client)
                self._answer()
        finally:
            self._client = None
            self._close(client)
            self._answer()

    def _connect(self, limit: float) -> None:
        client, health = self._client, self.health
        assert client is not None
        deadline = time.monotonic() + limit
        patience = 0.25
        while True:
            try:
                client.cluster_id(timeout=patience)
            except KafkaException as error:
                client.poll(0)  # the events say more than the call
                known = health.fatal or health.refused or health.last_error
                rest = deadline - time.monotonic()
                # All tried in vain is reported now, and not when the limit is over: the supervisor tries again.
                is_over = health.refused or health.fatal or health.complaint or rest <= 0 or self.thread.stopping
                if is_over and known is not None:
                    raise refusal(known, "the cluster") from None
                if is_over:
                    servers = self._config["bootstrap.servers"]
                    raise SessionLost(f"no answer from {servers} within {limit:g} s", sent=False) from error
                patience = min(patience * 2, max(rest, 0.05))
            else:
                return

    def _send(self, batch: _Batch) -> None:
        client = self._client
        assert client is not None
        self._batches.add(batch)
        for index, item in enumerate(batch.items):
            topic = item.source.names[0]
            if topic not in self._known_topics and (error := self._look_up(client, topic, batch)) is not None:
                batch.report(index, publish_error(error, item))
                continue
            try:
                self._produce(client, topic, item, batch, partial(self._on_report, batch, index))
            except KafkaException as error:
                batch.report(index, publish_error(error.args[0], item))
        self._check(batch)

    def _produce(
        self, client: confluent_kafka.Producer, topic: str, item: Outgoing, batch: _Batch, report: Callable[..., None]
    ) -> None:
        record = wire.record(item.message)
        number = -1 if item.source.partition is None else item.source.partition
        while True:
            try:
                client.produce(
                    topic,
                    record.value,
                    record.key,
                    number,
                    on_delivery=report,
                    timestamp=record.timestamp,
                    headers=record.headers,
                )
            except BufferError:
                # The library's queue is full: not an error, but time to wait.
                if time.monotonic() > batch.deadline or self.thread.stopping:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
                client.poll(_IDLE_WAIT)
            else:
                return

    def _look_up(self, client: confluent_kafka.Producer, topic: str, batch: _Batch) -> KafkaError | None:
        """Whether there is no such topic, asked once for each. The library alone would hold a message to it back for half
        a minute, and all that wait for the same batch."""
        patience = time.monotonic() + _TOPIC_LIMIT
        while True:
            try:
                found: KafkaError | None = client.list_topics(topic, timeout=_TOPIC_LIMIT).topics[topic].error
            except KafkaException:
                return None  # the cluster does not answer: the message may wait for it in the library
            if found is None:
                self._known_topics.add(topic)
                return None
            if found.code() not in UNKNOWN_TOPIC and not found.retriable():
                return found
            if time.monotonic() > patience or self.thread.stopping:
                return found if found.code() in UNKNOWN_TOPIC else None
            client.poll(_IDLE_WAIT)

    def _on_report(self, batch: _Batch, index: int, error: KafkaError | None, raw: object) -> None:
        if error is None:
            batch.left -= 1
        else:
            item = batch.items[index]
            if error.code() in UNKNOWN_TOPIC:
                self._known_topics.discard(item.source.names[0])
            batch.report(index, publish_error(error, item))
        self._check(batch)

    def _check(self, batch: _Batch) -> None:
        if not batch.left and batch in self._batches:
            self._batches.remove(batch)
            self._finished.append(batch)

    def _answer(self) -> None:
        """Wake everybody whose batch has all its reports, in one crossing."""
        if self._finished:
            finished, self._finished = self._finished, []
            self.thread.report(_wake, finished)

    def _purge_late(self, client: confluent_kafka.Producer) -> None:
        if self._batches and min(batch.deadline for batch in self._batches) < time.monotonic():
            _purge(client)

    def _close(self, client: confluent_kafka.Producer) -> None:
        # Unsent messages would make `close` flush, without limit.
        if self._batches:
            client.flush(_FLUSH_LIMIT)
        _purge(client)
        client.flush(_FLUSH_LIMIT)
        client.close()


def _purge(client: confluent_kafka.Producer) -> None:
    """Give up what waits and what was sent; the reports say which was which. Waits for nothing."""
    # The flag is upside down in confluent-kafka (2.16): told not to block, it waits for the threads of the library with
    # the interpreter's lock held, and one of them may be in a look-up of a name that takes a minute.
    client.purge(in_queue=True, in_flight=True, blocking=True)


class _Batch:
    """The messages of one `publish` on their way. Compared by identity."""

    __slots__ = ("deadline", "done", "items", "left", "results")

    def __init__(self, items: Sequence[Outgoing], deadline: float) -> None:
        self.items = items
        self.deadline = deadline
        self.results: list[Exception | None] = [None] * len(items)
        #: Reports to come.
        self.left = len(items)
        self.done = trio.Event()

    def report(self, index: int, error: Exception) -> None:
        self.results[index] = error
        self.left -= 1


def _wake(batches: Iterable[_Batch]) -> None:
    for batch in batches:
        batch.done.set()
