"""What a consumer asks the cluster: whether topics exist, and where to begin with a partition. In its thread; all bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from .lease import Place
from .refusals import UNKNOWN_TOPIC, refusal
from .topics import Topic

#: Seconds for one question; then it is asked again.
_PATIENCE: Final = 0.5
#: Seconds for a topic that the cluster makes by itself to appear.
_TOPIC_LIMIT: Final = 1.0
#: Seconds for finding out where new partitions begin: the group's rebalance waits for it.
_BEGIN_LIMIT: Final = 5.0


def check_topics(
    client: confluent_kafka.Consumer,
    topics: tuple[str, ...],
    deadline: float,
    why_not: Callable[[], KafkaError | None],
) -> None:
    """Return when the cluster has all `topics`. Raises `Refused` for one that it has not and does not make.

    Asked before they are subscribed: a subscription that cannot work would make the whole group rebalance.
    """
    appears_by = time.monotonic() + _TOPIC_LIMIT
    for topic in topics:
        while True:
            try:
                error: KafkaError | None = client.list_topics(topic, timeout=_PATIENCE).topics[topic].error
            except KafkaException as failure:
                error = why_not() or failure.args[0]
                if why_not() is not None or time.monotonic() > deadline:
                    raise refusal(error, f"topic {topic!r}") from None
                continue
            if error is None:
                break
            may_appear = error.code() in UNKNOWN_TOPIC or error.retriable()
            if not may_appear or why_not() is not None or time.monotonic() > appears_by:
                raise refusal(error, f"topic {topic!r}")
            time.sleep(0.05)


def find_beginnings(client: confluent_kafka.Consumer, unread: Mapping[Place, Topic]) -> dict[Place, int]:
    """For those of `unread` without a committed offset: where their source says to start. Raises `KafkaException`."""
    if not unread:
        return {}
    deadline = time.monotonic() + _BEGIN_LIMIT

    def rest() -> float:
        return max(deadline - time.monotonic(), 0.01)

    begins: dict[Place, int] = {}
    for partition in client.committed([TopicPartition(*place) for place in unread], timeout=rest()):
        place = Place(partition.topic, partition.partition)
        if partition.offset >= 0:
            continue
        moment, offset = unread[place].start_ms, -1
        if moment is not None:
            (found,) = client.offsets_for_times([TopicPartition(*place, moment)], timeout=rest())
            offset = found.offset
        if offset < 0:  # the end, or a moment after it
            _, offset = client.get_watermark_offsets(TopicPartition(*place), timeout=rest(), cached=False)
        begins[place] = offset
    return begins
