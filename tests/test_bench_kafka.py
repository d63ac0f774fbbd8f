"""The Kafka of the tests: it starts, is asked, is killed and comes back with what it had."""

from __future__ import annotations

import pytest

from .bench.kafka.admin import KafkaAdmin
from .bench.kafka.cluster import KafkaCluster
from .bench.kafka.node import KafkaServer

pytestmark = pytest.mark.broker("kafka")


async def test_the_shared_kafka_gives_each_test_a_topic(kafka: KafkaAdmin, topic: str) -> None:
    await kafka.add_numbers(topic, 10)
    assert sum((await kafka.ends(topic)).values()) == 10
    assert sorted(int(record.value()) for record in await kafka.records(topic)) == list(range(10))
    assert await kafka.lag("nobody", topic) == 10


async def test_a_killed_node_comes_back_with_its_ports_and_its_data(kafka_process: KafkaServer) -> None:
    topic = await kafka_process.admin.create_topic("orders", 2)
    await kafka_process.admin.add(topic, b"one", partition=1)
    kafka_process.kill()
    assert not kafka_process.answers()
    await kafka_process.start()
    assert await kafka_process.admin.ends(topic) == {0: 0, 1: 1}


async def test_three_nodes_are_a_cluster_and_two_go_on_without_the_third(kafka_nodes: KafkaCluster) -> None:
    topic = await kafka_nodes.admin.create_topic("orders", 3)
    leader = await kafka_nodes.leader(topic, 0)
    leader.kill()
    await kafka_nodes.admin.add(topic, b"one", partition=0)
    assert (await kafka_nodes.leader(topic, 0)).node != leader.node
