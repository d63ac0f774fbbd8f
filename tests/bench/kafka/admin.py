"""Another program: what a cluster says when someone asks it from outside, and records that a foreigner wrote.

Every question has a client of its own, which is gone when it is answered, and blocks in a thread meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import trio
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from ..waiting import until_told

#: What a server says of a group that nobody has joined yet, and of any while it makes the topic of the groups.
NO_GROUP = (
    KafkaError.GROUP_ID_NOT_FOUND,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
)
#: What a server says of a partition whose leader has just changed: as when it was frozen, and missed that.
NEW_LEADER = (KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION)
#: Seconds that any question may take.
PATIENCE = 10.0

T = TypeVar("T")


class KafkaAdmin:
    """Of the cluster at `bootstrap`, which asks for no authentication."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    # Topics

    async def create_topic(self, name: str, partitions: int = 4, *, config: Mapping[str, str] | None = None) -> str:
        """Create it, with as many copies as the cluster chooses, and wait until every partition has a leader."""
        new = NewTopic(name, partitions, config=dict(config or {}))
        await self.ask(lambda admin: admin.create_topics([new])[name].result(PATIENCE))

        async def is_led() -> bool:
            return len(await self.leaders(name)) == partitions

        await until_told(is_led)
        return name

    async def delete_topic(self, name: str) -> None:
        await self.ask(lambda admin: admin.delete_topics([name])[name].result(PATIENCE))

    async def leaders(self, topic: str) -> dict[int, int]:
        """By partition, the node that leads it; those without a leader are left out."""
        found = await self.ask(lambda admin: admin.list_topics(topic, timeout=PATIENCE).topics[topic].partitions)
        return {number: found[number].leader for number in sorted(found) if found[number].leader >= 0}

    async def ends(self, topic: str) -> dict[int, int]:
        """By partition, the offset that the next record will have."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, number): latest for number in await self.leaders(topic)}
        found: dict[int, int] = {}

        async def is_told() -> bool:
            try:
                answers = await self.ask(lambda admin: [f.result(PATIENCE) for f in admin.list_offsets(asked).values()])
            except KafkaException as error:
                if error.args[0].code() not in NEW_LEADER:
                    raise
                return False
            found.update({place.partition: answer.offset for place, answer in zip(asked, answers, strict=True)})
            return True

        await until_told(is_told)
        return found

    # Groups

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        """By partition, the offset that the group will go on from; those without one are left out."""
        asked = ConsumerGroupTopicPartitions(group)

        def offsets(admin: AdminClient) -> list[TopicPartition]:
            found: list[TopicPartition] = (
                admin.list_consumer_group_offsets([asked])[group].result(PATIENCE).topic_partitions
            )
            return found

        return {p.partition: p.offset for p in await self.ask(offsets) if p.topic == topic and p.offset >= 0}

    async def lag(self, group: str, topic: str) -> int:
        """Records that the group has not committed."""
        committed = await self.committed(group, topic)
        return sum(end - committed.get(partition, 0) for partition, end in (await self.ends(topic)).items())

    async def members(self, group: str) -> dict[str, list[tuple[str, int]]]:
        """By member, the partitions that it was given. Of a group that never was, none."""
        try:
            described = await self._describe(group)
        except KafkaException as error:
            if error.args[0].code() not in NO_GROUP:
                raise
            return {}
        return {
            member.member_id: [(p.topic, p.partition) for p in member.assignment.topic_partitions]
            for member in described.members
        }

    async def coordinator(self, group: str) -> int:
        """The node that its members report to."""
        return int((await self._describe(group)).coordinator.id)

    async def _describe(self, group: str) -> Any:
        return await self.ask(lambda admin: admin.describe_consumer_groups([group])[group].result(PATIENCE))

    # Records

    async def add(self, topic: str, *values: bytes | None, key: bytes | None = None, partition: int = -1) -> None:
        """Write records as another program would, all at once."""
        await self._add(topic, [(key, value) for value in values], partition)

    async def add_numbers(self, topic: str, count: int) -> None:
        """Write 0 … `count` - 1, each under a key of its own."""
        await self._add(topic, [(b"%d" % number, b"%d" % number) for number in range(count)], -1)

    async def _add(self, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], partition: int) -> None:
        def produce() -> None:
            producer = Producer(self._settings())
            for key, value in records:
                producer.produce(topic, value, key=key, partition=partition)
            assert producer.flush(PATIENCE) == 0, "not all were written"

        await trio.to_thread.run_sync(produce)

    async def records(self, topic: str) -> list[Any]:
        """Every record of a topic as confluent_kafka reads it, in the order of each partition."""
        ends = await self.ends(topic)

        def read() -> list[Any]:
            settings = {**self._settings(), "group.id": "nobody", "enable.auto.commit": False}
            consumer = Consumer(settings)
            try:
                consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
                found: list[Any] = []
                began = time.monotonic()
                while len(found) < sum(ends.values()):
                    assert time.monotonic() - began < PATIENCE, f"{len(found)} of {sum(ends.values())} records"
                    found += [record for record in consumer.consume(1000, 0.1) if record.error() is None]
                return found
            finally:
                consumer.close()

        return await trio.to_thread.run_sync(read)

    async def ask(self, question: Callable[[AdminClient], T]) -> T:
        """Any other question, in a thread."""
        return await trio.to_thread.run_sync(lambda: question(AdminClient(self._settings())))

    def _settings(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.bootstrap, "log_level": 0}
