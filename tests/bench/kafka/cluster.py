"""Three Kafka nodes that are one cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trio

from .admin import KafkaAdmin
from .node import KafkaServer, kafka_server


class KafkaCluster:
    """Its nodes are numbered from 1. A majority of them is a cluster."""

    def __init__(self, nodes: Sequence[KafkaServer]) -> None:
        self.nodes = nodes
        for node in nodes:
            node.nodes = nodes
        self.bootstrap = ",".join(node.bootstrap for node in nodes)
        self.admin = KafkaAdmin(",".join(node.admin.bootstrap for node in nodes))

    async def start(self) -> None:
        """Start all of them and wait until each answers."""
        for node in self.nodes:
            node.launch()
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                nursery.start_soon(trio.to_thread.run_sync, node.wait_until_it_answers)

    def node(self, number: int) -> KafkaServer:
        return self.nodes[number - 1]

    async def coordinator(self, group: str) -> KafkaServer:
        """The node that the members of a group report to."""
        return self.node(await self.admin.coordinator(group))

    async def leader(self, topic: str, partition: int) -> KafkaServer:
        """The node that a partition is written to and read from."""
        return self.node((await self.admin.leaders(topic))[partition])


@contextmanager
def kafka_cluster(folder: Path, properties: Mapping[str, object] | None = None) -> Iterator[KafkaCluster]:
    """Three nodes that are not started yet, and are gone when the block ends."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(kafka_server(folder / str(n), properties, node=n)) for n in (1, 2, 3)]
        yield KafkaCluster(nodes)
