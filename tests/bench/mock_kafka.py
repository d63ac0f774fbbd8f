"""librdkafka's own mock of a cluster, in a process of its own, so that its sockets are nobody's leak and it can be frozen.

Quick to have, and no more than a mock: topics exist once they are named, and there is nothing behind a restart. Its C
interface is called directly: by configuration alone it would let every group wait for 3 s, and none of it could be told.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trio
from confluent_kafka import Consumer, KafkaError, TopicPartition

from .kafka.admin import PATIENCE, KafkaAdmin

_PROGRAM = """
import ctypes, re, sys, confluent_kafka
kafka = ctypes.CDLL(re.search(r"/\\S*librdkafka\\S*", open("/proc/self/maps").read())[0])
for name in ("conf_new", "new", "mock_cluster_new"):
    getattr(kafka, f"rd_kafka_{name}").restype = ctypes.c_void_p
kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
configuration = ctypes.c_void_p(kafka.rd_kafka_conf_new())
kafka.rd_kafka_conf_set(configuration, b"log_level", b"0", None, 0)
client = kafka.rd_kafka_new(0, configuration, None, 0)
mock = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), 3))
kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(mock, 0)
print(kafka.rd_kafka_mock_cluster_bootstraps(mock).decode(), flush=True)
for line in sys.stdin:
    match line.split():
        case ["topic", name, partitions]:
            answer = kafka.rd_kafka_mock_topic_create(mock, name.encode(), int(partitions), 3)
        case ["down"]:
            answer = kafka.rd_kafka_mock_broker_set_down(mock, -1)
        case ["up"]:
            answer = kafka.rd_kafka_mock_broker_set_up(mock, -1)
    print(answer, flush=True)
"""


class MockKafkaAdmin(KafkaAdmin):
    """The mock has no answer to an administrator who asks for a group's offsets, but tells its members."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        #: What it was told while it could not answer.
        self._owed: list[str] | None = None
        assert process.stdout is not None
        servers = process.stdout.readline().strip()
        assert servers, "the mock cluster did not start"
        super().__init__(servers)

    async def create_topic(self, name: str, partitions: int = 4, *, config: Mapping[str, str] | None = None) -> str:
        assert not config, "the mock's topics have no configuration"
        self.make_topic(name, partitions)
        return name

    def make_topic(self, name: str, partitions: int) -> None:
        """Create it if it is not there; at once."""
        assert self._tell(f"topic {name} {partitions}") in (KafkaError.NO_ERROR, KafkaError.TOPIC_ALREADY_EXISTS)

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        places = [TopicPartition(topic, number) for number in await self.leaders(topic)]

        def ask() -> list[TopicPartition]:
            consumer = Consumer({**self._settings(), "group.id": group})
            try:
                return consumer.committed(places, timeout=PATIENCE)
            finally:
                consumer.close()

        return {p.partition: p.offset for p in await trio.to_thread.run_sync(ask) if p.offset >= 0}

    def go_down(self) -> None:
        """Cut every connection and take none."""
        assert self._tell("down") == 0

    def come_up(self) -> None:
        assert self._tell("up") == 0

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        self._owed = []

    def thaw(self) -> None:
        """What it was told meanwhile happens now."""
        os.kill(self._process.pid, signal.SIGCONT)
        owed, self._owed = self._owed or [], None
        for what in owed:
            assert self._answer() == 0, what

    def _tell(self, what: str) -> int:
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        if self._owed is not None:
            self._owed.append(what)
            return 0
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextmanager
def mock_kafka() -> Iterator[MockKafkaAdmin]:
    """A cluster of three, running."""
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield MockKafkaAdmin(process)
        finally:
            process.kill()
