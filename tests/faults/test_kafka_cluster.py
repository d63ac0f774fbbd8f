"""Three Kafka nodes under load, of which one fails at a time: nothing confirmed is lost, and every key keeps its order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from adapters.kafka import KafkaBroker

from ..bench.kafka.cluster import KafkaCluster
from ..bench.kafka.node import KafkaServer
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.traffic import traffic
from ..bench.waiting import until_told

pytestmark = [pytest.mark.broker("kafka"), pytest.mark.timeout(120), pytest.mark.promise("P5", "P6")]

#: The library waits a minute for an answer unless it is told otherwise, and a frozen node gives none.
IMPATIENT = {"socket.timeout.ms": 3000}


async def under_load(
    cluster: KafkaCluster, recorder: Recorder, *faults: Callable[[], Awaitable[object]], total: int, pause: float = 0
) -> None:
    """The faults one after another, at equal shares of the load. It recovered when all is confirmed and handled."""
    broker = KafkaBroker(f"kafka://{cluster.bootstrap}", properties=IMPATIENT)
    async with traffic(broker, "orders", recorder, total=total, pause=pause) as load:
        unsettled = 0
        for number, fault in enumerate(faults, 1):
            await load.reaches(number / (len(faults) + 2))
            unsettled += load.unsettled
            await fault()
            recorder.mark_fault(unsettled=unsettled)
        await load.ends(within=60)
        recorder.mark_recovered()


@pytest.mark.soak
async def test_25_a_rolling_restart_of_three_nodes(kafka_nodes: KafkaCluster, fault_table: FaultTable) -> None:
    admin = kafka_nodes.admin
    await admin.create_topic("orders", 6)
    with Recorder(25, "rolling restart of 3 nodes", broker="kafka") as recorder:

        async def restart(node: KafkaServer) -> None:
            await trio.to_thread.run_sync(node.stop)
            recorder.fault(f"node {node.node} was down", proof=not node.is_running())
            await node.start()
            # As an operator does: the next one when this one has caught up.
            await until_told(all_copies_in_sync, within=30)

        async def all_copies_in_sync() -> bool:
            found = await admin.ask(lambda client: client.list_topics("orders", timeout=10).topics["orders"])
            return all(len(partition.isrs) == 3 for partition in found.partitions.values())

        restarts = [partial(restart, node) for node in kafka_nodes.nodes]
        await under_load(kafka_nodes, recorder, *restarts, total=6_000, pause=0.1)  # over when the last of them is
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


async def test_25_the_groups_coordinator_killed(kafka_nodes: KafkaCluster, fault_table: FaultTable) -> None:
    await kafka_nodes.admin.create_topic("orders", 6)
    with Recorder(25, "coordinator of 3 nodes killed", broker="kafka") as recorder:

        async def kill() -> None:
            coordinator = await kafka_nodes.coordinator("default")
            coordinator.kill()
            recorder.fault("it is gone", proof=not coordinator.is_running())

        await under_load(kafka_nodes, recorder, kill, total=3_000)
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))


@pytest.mark.soak
async def test_25_a_frozen_node(kafka_nodes: KafkaCluster, fault_table: FaultTable) -> None:
    await kafka_nodes.admin.create_topic("orders", 6)
    with Recorder(25, "one of 3 nodes frozen", broker="kafka") as recorder:
        leader = await kafka_nodes.leader("orders", 0)

        async def freeze() -> None:
            leader.freeze()

        await under_load(kafka_nodes, recorder, freeze, total=3_000)
        assert (await kafka_nodes.leader("orders", 0)).node != leader.node, "another node took over"
        recorder.fault("it was frozen to the end", proof=not leader.answers())
        leader.thaw()
        bound = recorder.unsettled + len(recorder.unknown)
        fault_table.add(recorder.check(duplicates_at_most=bound, recovery_within=10))
