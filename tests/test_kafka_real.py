"""The Kafka adapter on a real cluster: groups that rebalance, refusals, servers down and frozen."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import trio

from adapters.kafka import KafkaBroker, Plain, consumer, session
from runtime import BrokerUnavailable, LinkState, Runtime, SubscriptionState, Unroutable

from .bench.kafka.admin import KafkaAdmin
from .bench.kafka.node import KafkaServer, kafka_server
from .bench.kafka_handlers import QUICK, ClientThreads, collect
from .bench.waiting import until, until_told

pytestmark = pytest.mark.broker("kafka")


@pytest.mark.promise("P6")
async def test_a_revoked_partition_is_drained_committed_and_given_up(kafka: KafkaAdmin, topic: str) -> None:
    """Every record once: what the first member had in hand when the second joined, it finished and committed."""
    done: list[tuple[str, int]] = []

    def worker(name: str) -> Runtime:
        broker = KafkaBroker(kafka.bootstrap, name=name, group=topic, properties=QUICK)

        @broker.subscriber(topic, concurrency=8, ordered_by="key")
        async def handle(number: int) -> None:
            await trio.sleep(0.05)
            done.append((name, number))

        return Runtime(broker)

    await kafka.add_numbers(topic, 300)
    async with worker("a").open():
        await until(lambda: len(done) > 10, within=20)
        async with worker("b").open():
            await until(lambda: len(done) >= 300, within=30)
    assert sorted(number for _, number in done) == list(range(300))
    assert {who for who, _ in done} == {"a", "b"}


@pytest.mark.promise("P6")
async def test_what_runs_when_its_partition_is_revoked_is_finished_and_committed_before_it_goes(
    kafka: KafkaAdmin, topic: str
) -> None:
    done: list[tuple[str, int]] = []

    def worker(name: str, takes: float) -> Runtime:
        broker = KafkaBroker(kafka.bootstrap, name=name, group=topic, properties=QUICK)

        @broker.subscriber(topic, concurrency=8)
        async def handle(number: int) -> None:
            await trio.sleep(takes)
            done.append((name, number))

        return Runtime(broker)

    for partition in range(4):
        await kafka.add(topic, b"%d" % partition, partition=partition)
    first, second = worker("a", 1.5), worker("b", 0)
    async with first.open():
        await until(lambda: first.status().broker("a").subscriptions[0].running == 4, within=20)
        async with second.open():
            await until(lambda: (second.status().broker("b").subscriptions[0].assignment or "").count("[") == 2)
            (status,) = first.status().broker("a").subscriptions
            assert (status.lost, status.acked) == (0, 4)
            for partition in range(4):
                await kafka.add(topic, b"%d" % (4 + partition), partition=partition)
            await until(lambda: len(done) >= 8)
    assert sorted(number for _, number in done) == list(range(8))
    assert [who for who, number in done if number < 4] == ["a"] * 4


@pytest.mark.promise("P6")
async def test_a_handler_that_outlasts_the_revoke_is_cancelled_and_its_message_is_the_next_owners(
    kafka: KafkaAdmin, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "REVOKE_LIMIT", 0.3)
    began: dict[str, list[int]] = {"a": [], "b": []}
    cancelled: list[int] = []

    def worker(name: str) -> Runtime:
        broker = KafkaBroker(kafka.bootstrap, name=name, group=topic, properties=QUICK)

        @broker.subscriber(topic, concurrency=20)
        async def handle(number: int) -> None:
            began[name].append(number)
            try:
                await trio.sleep(0 if name == "b" else 60)
            except trio.Cancelled:
                cancelled.append(number)
                raise

        return Runtime(broker, grace=0.1)

    for partition in range(4):
        await kafka.add(topic, b"%d" % partition, partition=partition)
    first, second = worker("a"), worker("b")
    async with first.open():
        await until(lambda: len(began["a"]) == 4, within=20)
        async with second.open():
            await until(lambda: len(began["b"]) == 2, within=20)
            assert sorted(began["b"]) == sorted(cancelled)
            (status,) = first.status().broker("a").subscriptions
            assert (status.lost, status.running) == (2, 2)

            async def is_committed() -> bool:
                return len(await kafka.committed(topic, topic)) == 2

            await until_told(is_committed)


async def test_a_handler_of_three_poll_intervals_causes_no_rebalance(kafka: KafkaAdmin, topic: str) -> None:
    properties = {"max.poll.interval.ms": 1000, "session.timeout.ms": 1000, "heartbeat.interval.ms": 100}
    broker = KafkaBroker(kafka.bootstrap, group=topic, properties=properties)
    done: list[int] = []

    @broker.subscriber(topic, concurrency=1)
    async def handle(number: int) -> None:
        if number == 0:
            await trio.sleep(3)
        done.append(number)

    app = Runtime(broker)
    for number in range(3):
        await kafka.add(topic, b"%d" % number, partition=0)
    async with app.open():
        await until(lambda: app.status().ready, within=20, why=app.status)
        members = await kafka.members(topic)
        await until(lambda: len(done) == 3)
        assert await kafka.members(topic) == members
        (status,) = app.status().broker("kafka").subscriptions
        assert (status.received, status.lost) == (3, 0)


@pytest.mark.promise("P8")
async def test_a_topic_that_nobody_makes_fails_its_own_subscription_and_its_own_publish(tmp_path: Any) -> None:
    with kafka_server(tmp_path / "kafka", {"auto.create.topics.enable": "false"}) as server:
        await server.start()
        await server.admin.create_topic("there")
        broker = KafkaBroker(server.bootstrap)
        there = collect(broker, "there")
        missing = collect(broker, "missing")
        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().broker("kafka").subscriptions[0].ready, within=20)
            with pytest.raises(Unroutable, match=r"there is nowhere to put message .* to topic 'missing'"):
                await broker.publish(1, "missing")
            await broker.publish(1, "there")
            await until(lambda: there.bodies)
            status = app.status().broker("kafka").subscriptions[1]
            assert status.state is SubscriptionState.FAILING
            assert (status.error or "").startswith("topic 'missing' does not exist on the cluster")
            assert not app.status().ready
            await server.admin.create_topic("missing")
            await until(lambda: app.status().ready)
            await broker.publish(2, "missing")
            await until(lambda: missing.bodies == [2])


@pytest.mark.promise("P6")
async def test_a_message_that_cannot_be_set_aside_is_not_lost_and_the_trouble_is_told(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "REJECT_AGAIN", 0.2)
    with kafka_server(tmp_path / "kafka", {"auto.create.topics.enable": "false"}) as server:
        await server.start()
        await server.admin.create_topic("orders", 1)
        broker = KafkaBroker(server.bootstrap)

        @broker.subscriber("orders")
        async def handle(number: int) -> None: ...

        await server.admin.add("orders", b"no number", b"1")
        app = Runtime(broker)
        async with app.open():
            await until(lambda: "there is nowhere to put message" in caplog.text, within=20)
            assert (await server.admin.committed("default", "orders")).get(0, 0) == 0
            await server.admin.create_topic("orders.rejected", 1)

            async def is_settled() -> bool:
                return await server.admin.lag("default", "orders") == 0

            await until_told(is_settled)
        assert [record.value() for record in await server.admin.records("orders.rejected")] == [b"no number"]


@pytest.mark.promise("P5")
async def test_a_cluster_that_is_down_shows_and_gets_no_new_session_when_it_is_back(
    kafka_process: KafkaServer,
) -> None:
    broker = KafkaBroker(kafka_process.bootstrap, publish_limit=1, probe_interval=0.5, properties=QUICK)
    seen = collect(broker, "orders")
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready, within=20)
        await broker.publish(1, "orders")
        kafka_process.kill()
        await until(lambda: app.status().broker("kafka").state is LinkState.DEGRADED)
        assert "no server of the cluster can be reached" in str(app.status().broker("kafka").error)
        with pytest.raises(BrokerUnavailable, match="it was not sent"):
            await broker.publish(2, "orders")
        await kafka_process.start()
        await until(lambda: app.status().ready, within=20)
        await broker.publish(3, "orders")
        await until(lambda: 3 in seen.bodies, within=20)
        assert app.status().broker("kafka").sessions == 1
    assert 2 not in seen.bodies


@pytest.mark.promise("P8")
async def test_a_wrong_password_is_a_refusal_and_a_right_one_is_let_in(tmp_path: Any) -> None:
    jaas = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_me="secret";'
    properties = {"sasl.enabled.mechanisms": "PLAIN", "listener.name.clients.plain.sasl.jaas.config": jaas}
    with kafka_server(tmp_path / "kafka", properties, protocol="SASL_PLAINTEXT") as server:
        await server.start()
        wrong = KafkaBroker(server.bootstrap, name="wrong", auth=Plain("me", "other"))
        right = KafkaBroker(server.bootstrap, name="right", auth=Plain("me", "secret"))
        seen = collect(right, "orders")
        app = Runtime(wrong, right)
        async with app.open():
            await right.publish(1, "orders")
            await until(lambda: seen.bodies, within=20)
            await until(lambda: app.status().broker("wrong").error is not None)
            status = app.status().broker("wrong")
            assert "other" not in str(status)
            assert "uthentication failed" in str(status.error)
            assert status.sessions == 0
            attempts = status.attempts
            await trio.sleep(2)
            assert app.status().broker("wrong").attempts <= attempts + 2  # at most one a second


@pytest.mark.promise("P2")
async def test_a_frozen_cluster_shows_and_is_left_in_time_and_what_is_left_over_ends_by_itself(
    kafka_process: KafkaServer,
) -> None:
    threads = ClientThreads()
    broker = KafkaBroker(kafka_process.bootstrap)
    seen = collect(broker, "orders")
    app = Runtime(broker)
    with ExitStack() as thaw:
        async with app.open():
            await broker.publish(1, "orders")
            await until(lambda: seen.bodies, within=20)
            kafka_process.freeze()
            thaw.callback(kafka_process.thaw)
            await until(lambda: app.status().broker("kafka").state is LinkState.DEGRADED)
            assert "has answered for" in str(app.status().broker("kafka").error)
            assert app.status().broker("kafka").sessions == 1
            began = trio.current_time()
        assert trio.current_time() - began < 2
    await until(lambda: broker.left_over == 0, within=20)
    assert threads.names() == []
