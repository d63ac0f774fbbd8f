"""What the poll thread may commit and when, with a client that only remembers what it was asked for."""

from __future__ import annotations

import threading
from typing import Any, cast

import confluent_kafka
import pytest
import trio.testing
from confluent_kafka import KafkaError, TopicPartition

from adapters.kafka import consumer
from adapters.kafka.consumer import Batch, GroupConsumer
from adapters.kafka.inlet import Inlet
from adapters.kafka.lease import Place
from adapters.kafka.threads import ClientThread, Leftovers
from adapters.kafka.topics import Topic

HERE, THERE = Place("orders", 0), Place("orders", 1)


class Client:
    def __init__(self) -> None:
        self.commits: list[dict[Place, int]] = []
        self.subscriptions: list[list[str]] = []

    def subscribe(self, topics: list[str], **callbacks: object) -> None:
        self.subscriptions.append(topics)

    def unsubscribe(self) -> None:
        self.subscriptions.append([])

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous, "the synchronous one has no time limit"
        self.commits.append({Place(o.topic, o.partition): o.offset for o in offsets})


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def on_batch(self, batch: Batch) -> None: ...

    def on_assigned(self, places: list[Place]) -> None:
        self.heard.append(("assigned", sorted(places)))

    def on_revoking(self, places: list[Place]) -> None:
        self.heard.append(("revoking", sorted(places)))

    def on_gone(self, places: list[Place]) -> None:
        self.heard.append(("gone", sorted(places)))

    def on_topic_error(self, topic: str | None, error: KafkaError) -> None: ...

    def on_commit(self, complaint: str | None) -> None:
        self.heard.append(("commit", complaint))


class Bench:
    """A consumer without its thread: the test is the thread."""

    def __init__(self) -> None:
        self.client = Client()
        self.listener = Listener()
        self.thread = ClientThread("client", Leftovers())
        self.consumer = GroupConsumer(self.thread, {}, self.listener, incremental=True)

    def assign(self, *places: Place) -> None:
        self.consumer._on_assign(self._client, [TopicPartition(*place) for place in places])

    def revoke(self, *places: Place) -> None:
        self.consumer._on_revoke(self._client, [TopicPartition(*place) for place in places])

    def lose(self, *places: Place) -> None:
        self.consumer._on_lost(self._client, [TopicPartition(*place) for place in places])

    def mark(self, positions: dict[Place, int]) -> None:
        self.consumer.mark(positions)
        self.thread.obey()

    def round(self) -> None:
        self.thread.obey()
        self.consumer._subscribe(self._client)

    def commit(self) -> None:
        self.consumer._commit(self._client)

    def answer(self, error: KafkaError | None, positions: dict[Place, int]) -> None:
        self.consumer._on_commit(error, [TopicPartition(*place, offset) for place, offset in positions.items()])

    @property
    def marks(self) -> dict[Place, int]:
        return self.consumer._marks

    @property
    def _client(self) -> confluent_kafka.Consumer:
        return cast(Any, self.client)  # type: ignore[no-any-return]


@pytest.mark.promise("P6")
async def test_no_commit_follows_a_revoke_or_a_loss() -> None:
    bench = Bench()
    bench.assign(HERE, THERE)
    bench.mark({HERE: 5, THERE: 7})
    bench.consumer.drained(HERE)
    bench.revoke(HERE)
    assert bench.client.commits == [{HERE: 5}]
    bench.mark({HERE: 6, THERE: 8})
    assert bench.marks == {THERE: 8}
    bench.lose(THERE)
    bench.mark({THERE: 9})
    assert bench.marks == {}
    assert len(bench.client.commits) == 1


async def test_thrown_out_of_its_group_it_is_out_until_it_is_let_in_again() -> None:
    bench = Bench()
    bench.assign(HERE)
    seen = [bench.consumer.is_out]
    bench.lose(HERE)
    seen.append(bench.consumer.is_out)
    bench.assign()  # as a spare member
    seen.append(bench.consumer.is_out)
    assert seen == [False, True, False]


async def test_a_revoke_waits_for_what_runs_and_commits_it_and_not_longer_than_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.assign(HERE)

    def finish() -> None:
        bench.consumer.mark({HERE: 9})
        bench.consumer.drained(HERE)

    timer = threading.Timer(0.1, finish)
    timer.start()
    bench.revoke(HERE)
    timer.join()
    assert bench.client.commits == [{HERE: 9}]
    monkeypatch.setattr(consumer, "REVOKE_LIMIT", 0.1)
    bench.assign(HERE)
    bench.revoke(HERE)
    assert len(bench.client.commits) == 1
    await trio.testing.wait_all_tasks_blocked()
    assert [what for what, _ in bench.listener.heard] == ["assigned", "revoking", "gone"] * 2


async def test_a_failed_commit_is_tried_again_unless_there_is_a_newer_one_and_shows() -> None:
    bench = Bench()
    bench.assign(HERE, THERE)
    bench.mark({HERE: 5, THERE: 7})
    bench.commit()
    bench.mark({HERE: 6})
    bench.answer(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED), {HERE: 5, THERE: 7})
    assert bench.marks == {HERE: 6, THERE: 7}
    bench.commit()
    bench.answer(None, {HERE: 6, THERE: 7})
    await trio.testing.wait_all_tasks_blocked()
    said = [what for kind, what in bench.listener.heard if kind == "commit"]
    assert said == ["offsets cannot be committed: Broker: Group authorization failed", None]


async def test_a_commit_that_a_rebalance_overtook_is_news_only_when_it_goes_on() -> None:
    bench = Bench()
    bench.assign(HERE)
    bench.mark({HERE: 5})
    for _ in range(3):
        bench.commit()
        bench.answer(KafkaError(KafkaError.REBALANCE_IN_PROGRESS), {HERE: 5})
    assert bench.marks == {HERE: 5}
    await trio.testing.wait_all_tasks_blocked()
    assert [kind for kind, _ in bench.listener.heard] == ["assigned", "commit"]


async def test_a_commit_that_was_refused_after_its_partition_went_is_dropped() -> None:
    bench = Bench()
    bench.assign(HERE)
    bench.mark({HERE: 5})
    bench.commit()
    bench.lose(HERE)
    bench.answer(KafkaError(KafkaError.ILLEGAL_GENERATION), {HERE: 5})
    assert bench.marks == {}


async def test_a_source_that_is_closed_and_opened_again_at_once_gives_its_partitions_back_in_between() -> None:
    bench = Bench()
    closed, opened, other = (
        Inlet(Topic("orders"), began=False),
        Inlet(Topic("orders"), began=True),
        Inlet(Topic("other"), began=False),
    )
    bench.consumer.add(other)
    bench.consumer.add(closed)
    bench.round()
    bench.assign(HERE, Place("other", 0))
    bench.consumer.remove(closed)
    bench.consumer.add(opened)
    bench.round()
    bench.round()
    assert bench.client.subscriptions == [["orders", "other"], ["other"]], "they are not given back yet"
    bench.revoke(HERE)
    bench.round()
    assert bench.client.subscriptions == [["orders", "other"], ["other"], ["orders", "other"]]


async def test_a_group_s_only_source_that_is_opened_again_at_once_is_joined_again() -> None:
    bench = Bench()
    closed, opened = Inlet(Topic("orders"), began=False), Inlet(Topic("orders"), began=True)
    bench.consumer.add(closed)
    bench.round()
    bench.assign(HERE)
    bench.consumer.remove(closed)
    bench.consumer.add(opened)
    bench.round()
    bench.lose(HERE)
    bench.round()
    assert bench.client.subscriptions == [["orders"], [], ["orders"]]
