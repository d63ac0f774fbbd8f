"""The Kafka adapter, on librdkafka's mock cluster and on a real one."""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import confluent_kafka
import pytest
import trio

from adapters.kafka import KafkaBroker, Topic, consumer
from runtime import Message, Rejected, Runtime, SubscriptionState

from .bench.kafka.admin import KafkaAdmin
from .bench.kafka_handlers import QUICK, ClientThreads, collect
from .bench.mock_kafka import mock_kafka
from .bench.waiting import until, until_told


@pytest.fixture(scope="module", autouse=True)
def mock() -> Iterator[KafkaAdmin]:
    """Autouse, so that its pipes are there before the first test counts its files."""
    with mock_kafka() as admin:
        yield admin


@pytest.fixture(params=["mock", pytest.param("kafka", marks=pytest.mark.broker("kafka"))])
def cluster(request: pytest.FixtureRequest) -> KafkaAdmin:
    admin: KafkaAdmin = request.getfixturevalue(request.param)
    return admin


@pytest.fixture
def name() -> str:
    """Of a topic or a group that nobody else uses."""
    return f"t-{uuid.uuid4().hex[:10]}"


def _is_ready(app: Runtime) -> bool:
    return app.status().ready


async def test_what_is_published_is_handled_with_all_that_travels_with_it(cluster: KafkaAdmin, name: str) -> None:
    broker = KafkaBroker(cluster.bootstrap)
    seen = collect(broker, Topic(name, group=name))
    async with Runtime(broker).open():
        id = await broker.publish(
            {"id": 1}, name, key="k", headers={"tenant": "acme", "_x": "y"}, reply_to="r", correlation_id="c"
        )
        await broker.publish(None, name, key="gone")
        await until(lambda: len(seen.bodies) == 2, within=20)
    by_key = {message.key: message for message in seen.messages}
    assert sorted(seen.bodies, key=str) == [None, {"id": 1}]
    message = by_key["k"]
    assert (message.id, message.headers, message.reply_to, message.correlation_id, message.content_type) == (
        id,
        {"tenant": "acme", "_x": "y"},
        "r",
        "c",
        "application/json",
    )
    assert message.timestamp == pytest.approx(time.time(), abs=60)
    records = {record.key(): record.value() for record in await cluster.records(name)}
    assert records == {b"k": b'{"id":1}', b"gone": None}


@pytest.mark.broker("kafka")
async def test_one_consumer_serves_all_subscriptions_of_a_group(kafka: KafkaAdmin, name: str) -> None:
    threads = ClientThreads()
    broker = KafkaBroker(kafka.bootstrap, group=name, properties=QUICK)
    first = collect(broker, f"{name}-a")
    both = collect(broker, Topic(f"{name}-b", f"{name}-c"))
    app = Runtime(broker)
    async with app.open():
        for topic in "abc":
            await broker.publish([topic], f"{name}-{topic}")
        await until(lambda: app.status().ready, within=20, why=app.status)
        assert len(threads.names()) == 2  # a consumer and a producer
        shown = [s.assignment for s in app.status().broker("kafka").subscriptions]
        assert shown[0] == ", ".join(f"{name}-a[{i}]" for i in range(4))
        await until(lambda: len(first.bodies) + len(both.bodies) == 3)
    assert (first.bodies, sorted(both.bodies)) == ([["a"]], [["b"], ["c"]])
    assert threads.names() == []


@pytest.mark.broker("kafka")
async def test_two_subscriptions_of_one_topic_and_group_are_two_members_and_share_it(
    kafka: KafkaAdmin, topic: str
) -> None:
    broker = KafkaBroker(kafka.bootstrap, group=topic, properties=QUICK)
    halves = [collect(broker, topic), collect(broker, Topic(topic, f"{topic}-more"))]
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready, within=20, why=app.status)
        assert len(await kafka.members(topic)) == 2
        await kafka.add_numbers(topic, 100)
        await kafka.add_numbers(f"{topic}-more", 100)
        await until(lambda: sum(len(half.bodies) for half in halves) == 200)
    assert sorted(halves[0].bodies + halves[1].bodies) == sorted([*range(100), *range(100)])
    assert all(half.bodies for half in halves)


@pytest.mark.broker("kafka")  # the mock knows no offsets of a moment
async def test_a_group_begins_where_it_was_told_and_goes_on_where_it_was(kafka: KafkaAdmin, name: str) -> None:
    early = KafkaBroker(kafka.bootstrap, properties=QUICK)
    await kafka.add(name, b"1", b"2")
    await trio.sleep(0.01)
    moment = time.time()
    await trio.sleep(0.01)
    groups = {"early": "earliest", "late": "latest", "moment": moment}
    await kafka.add(name, b"3", b"4")
    seen = {group: collect(early, Topic(name, group=f"{name}-{group}", start=start)) for group, start in groups.items()}  # type: ignore[arg-type]
    app = Runtime(early)
    async with app.open():
        await until(lambda: app.status().ready, within=20, why=app.status)
        await early.publish(5, name)
        await until(lambda: [len(s.bodies) for s in seen.values()] == [5, 1, 3])
    assert {group: sorted(s.bodies) for group, s in seen.items()} == {
        "early": [1, 2, 3, 4, 5],
        "late": [5],
        "moment": [3, 4, 5],
    }
    again = KafkaBroker(kafka.bootstrap, group=f"{name}-late", properties=QUICK)
    more = collect(again, name)
    await kafka.add(name, b"6")
    async with Runtime(again).open():
        await until(lambda: more.bodies, within=20)
    assert more.bodies == [6]


async def test_a_group_that_starts_late_and_handles_nothing_keeps_its_place(cluster: KafkaAdmin, name: str) -> None:
    await cluster.add(name, b"1", b"2", b"3")
    for expected in list[list[int]](([], [4])):
        broker = KafkaBroker(cluster.bootstrap, properties=QUICK)
        seen = collect(broker, Topic(name, group=name, start="latest"))
        app = Runtime(broker)
        async with app.open():
            await until(partial(_is_ready, app), within=20)
            while len(seen.bodies) < len(expected):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert seen.bodies == expected
        await cluster.add(name, b"4")


async def test_a_released_message_comes_again_here_and_a_rejected_one_is_set_aside(
    cluster: KafkaAdmin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.retry.FIRST_DELAY", 0.01)
    broker = KafkaBroker(cluster.bootstrap, group=name)
    attempts: defaultdict[int, list[int]] = defaultdict(list)

    @broker.subscriber(name, concurrency=4)
    async def handle(number: int, message: Message) -> None:
        attempts[number].append(message.attempt)
        if number == 2 or (number == 1 and message.attempt < 3):
            raise ValueError("not today")

    app = Runtime(broker)
    async with app.open():
        for number in range(4):
            await broker.publish(number, name, key=str(number))
        await until(lambda: app.status().broker("kafka").subscriptions[0].rejected == 1, within=20)

        async def is_committed() -> bool:
            return await cluster.lag(name, name) == 0

        await until_told(is_committed)
    assert dict(attempts) == {0: [1], 1: [1, 2, 3], 2: [1, 2, 3, 4, 5], 3: [1]}
    (record,) = await cluster.records(f"{name}.rejected")
    headers = dict(record.headers())
    assert (record.key(), record.value()) == (b"2", b"2")
    assert headers["rejected-from"] == f"{name}/{name}".encode()
    assert headers["rejected-attempt"] == b"5"
    assert b"not today" in headers["rejected-reason"]
    assert "_attempt" not in headers


@pytest.mark.promise("P6")
async def test_nothing_is_committed_past_a_message_that_is_not_settled(cluster: KafkaAdmin, name: str) -> None:
    broker = KafkaBroker(cluster.bootstrap, group=name)
    done: list[int] = []
    may_end = trio.Event()

    @broker.subscriber(name, concurrency=10)
    async def handle(number: int) -> None:
        if number == 3:
            await may_end.wait()
        done.append(number)

    async with Runtime(broker).open():
        for number in range(8):
            await broker.publish(number, Topic(name, partition=0))
        await until(lambda: len(done) == 7, within=20)

        async def committed() -> int:
            return (await cluster.committed(name, name)).get(0, 0)

        async def has_reached(offset: int) -> bool:
            return await committed() == offset

        await until_told(lambda: has_reached(3))
        with trio.move_on_after(3 * consumer.COMMIT_EVERY):
            while True:
                assert await committed() == 3
                await trio.sleep(0.02)
        may_end.set()
        await until_told(lambda: has_reached(8))


@pytest.mark.promise("P6", "P9")
async def test_a_drain_with_forty_waiting_at_concurrency_four_loses_none(cluster: KafkaAdmin, name: str) -> None:
    done: list[int] = []
    started = trio.Event()

    def worker() -> Runtime:
        broker = KafkaBroker(cluster.bootstrap, group=name, properties=QUICK)

        @broker.subscriber(name, concurrency=4)
        async def handle(number: int) -> None:
            started.set()
            await trio.sleep(0.01)
            done.append(number)

        return Runtime(broker)

    await cluster.add_numbers(name, 40)
    async with worker().open():
        with trio.fail_after(20):
            await started.wait()
    assert 0 < len(done) < 40
    async with worker().open():
        await until(lambda: len(set(done)) == 40, within=20)
    assert sorted(done) == list(range(40))


@pytest.mark.broker("kafka")
async def test_a_slow_subscription_pauses_and_takes_everything_in_the_end(
    kafka: KafkaAdmin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "HIGH", 20)
    monkeypatch.setattr(consumer, "LOW", 5)
    monkeypatch.setattr(consumer, "MOST", 10)
    monkeypatch.setattr(consumer, "PATIENCE", 0.05)
    pauses = []
    real = consumer.GroupConsumer._partitions

    def spied(self: consumer.GroupConsumer, inlet: Any) -> Any:
        pauses.append(inlet.is_paused)
        return real(self, inlet)

    monkeypatch.setattr(consumer.GroupConsumer, "_partitions", spied)
    broker = KafkaBroker(kafka.bootstrap, group=name)
    done: list[int] = []

    @broker.subscriber(name, concurrency=2)
    async def slow(number: int) -> None:
        await trio.sleep(0.01)
        done.append(number)

    fast = collect(broker, f"{name}-fast")
    await kafka.add_numbers(name, 150)
    await kafka.add_numbers(f"{name}-fast", 150)
    async with Runtime(broker).open():
        await until(lambda: len(fast.bodies) == 150, within=20)
        assert len(done) < 150
        await until(lambda: len(done) >= 150)
    assert sorted(done) == sorted(fast.bodies) == list(range(150))
    assert {True, False} <= set(pauses)


async def test_a_message_that_kafka_refuses_does_not_touch_its_neighbours(cluster: KafkaAdmin, name: str) -> None:
    broker = KafkaBroker(cluster.bootstrap, properties={"message.max.bytes": 2000})
    results: dict[int, str] = {}

    async def publish(size: int) -> None:
        try:
            await broker.publish(b"x" * size, name)
            results[size] = "ok"
        except Rejected as error:
            results[size] = str(error)

    async with Runtime(broker).open():
        async with trio.open_nursery() as nursery:
            for size in (10, 3000, 20):
                nursery.start_soon(publish, size)
    assert results[10] == results[20] == "ok"
    assert "Kafka refused message" in results[3000]


@pytest.mark.promise("P2")
async def test_no_client_is_ever_called_in_the_trio_thread(
    cluster: KafkaAdmin, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: defaultdict[str, set[int]] = defaultdict(set)
    threads = ClientThreads()

    def spy(kind: type) -> type:
        def note(method: str) -> Any:
            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                callers[f"{kind.__name__}.{method}"].add(threading.get_ident())
                return getattr(kind, method)(self, *args, **kwargs)

            return call

        methods = [m for m in dir(kind) if not m.startswith("_") and callable(getattr(kind, m))]
        return type(kind.__name__, (kind,), {m: note(m) for m in [*methods, "__init__"]})

    broker = KafkaBroker(cluster.bootstrap, group=name)
    monkeypatch.setattr(confluent_kafka, "Consumer", spy(confluent_kafka.Consumer))
    monkeypatch.setattr(confluent_kafka, "Producer", spy(confluent_kafka.Producer))
    seen = collect(broker, Topic(name, start="latest"))
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready, within=20, why=app.status)
        await broker.publish(1, name)
        await until(lambda: seen.bodies)
        assert app.status().broker("kafka").subscriptions[0].assignment
    called = {method.rpartition(".")[2] for method in callers}
    assert {"__init__", "poll", "consume", "commit", "subscribe", "produce", "close", "cluster_id"} <= called
    here = threading.get_ident()
    assert [method for method, idents in callers.items() if here in idents] == []
    assert all(len(idents) == 1 for idents in callers.values() if len(threads.names()) == 0)


async def test_one_member_name_is_not_given_to_two_consumers(cluster: KafkaAdmin, name: str) -> None:
    broker = KafkaBroker(cluster.bootstrap, group=name)
    for topics in ((name,), (name, f"{name}-more")):
        collect(broker, Topic(*topics, member="m"))
    app = Runtime(broker)
    async with app.open():
        await until(lambda: SubscriptionState.FAILING in [s.state for s in app.status().broker("kafka").subscriptions])
        (error,) = [e for s in app.status().broker("kafka").subscriptions if (e := s.error) is not None]
        assert error.startswith(f"member 'm' of group {name!r} reads {name}")
