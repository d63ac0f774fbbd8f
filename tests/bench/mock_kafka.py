"""librdkafka's own mock of a cluster, in a process of its own so that its sockets are nobody's leak. Quick to have, and
no more than a mock: a group's first rebalance takes 3 s, topics exist once they are named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio
from confluent_kafka import Consumer, TopicPartition

from .kafka.admin import PATIENCE, KafkaAdmin

_PROGRAM = """
import sys, confluent_kafka
mock = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 3, "log_level": 0})
print(",".join(f"{b.host}:{b.port}" for b in mock.list_topics(timeout=10).brokers.values()), flush=True)
sys.stdin.read()
"""


class MockKafkaAdmin(KafkaAdmin):
    """The mock has no answer to an administrator who asks for a group's offsets, but tells its members."""

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        places = [TopicPartition(topic, number) for number in await self.leaders(topic)]

        def ask() -> list[TopicPartition]:
            consumer = Consumer({**self._settings(), "group.id": group})
            try:
                return consumer.committed(places, timeout=PATIENCE)
            finally:
                consumer.close()

        return {p.partition: p.offset for p in await trio.to_thread.run_sync(ask) if p.offset >= 0}


@contextmanager
def mock_kafka() -> Iterator[MockKafkaAdmin]:
    """A cluster of three, running."""
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            servers = process.stdout.readline().strip()
            assert servers, "the mock cluster did not start"
            yield MockKafkaAdmin(servers)
        finally:
            process.kill()
