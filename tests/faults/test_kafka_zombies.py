"""Every internal task and every thread of the Kafka adapter is killed in turn: it heals within seconds, or ends loudly."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from adapters.kafka import KafkaBroker
from adapters.kafka.threads import ClientThread
from runtime import Runtime

from ..bench.kafka.admin import KafkaAdmin
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.tasks import Boom, kill, tasks_of_the_run
from ..bench.waiting import until

pytestmark = [pytest.mark.broker("kafka"), pytest.mark.promise("P8")]

#: What the death of each must come to.
FATE = {
    "broker kafka": "raises",
    "kafka: supervisor": "heals",
    "kafka: watchdog": "heals",
    "kafka: subscription": "heals",
    "kafka: settlement": "raises",
    "kafka: outbox": "raises",
    "producer: end": "heals",
    "consumer: end": "heals",
}


def role(task: trio.lowlevel.Task) -> str:
    """The task's name without the run's, the topic's and the client's number."""
    name = re.sub(r"^\S+ (?:\S+ )?(producer|consumer)(?: \d+)?: end$", r"\1: end", task.name)
    return re.sub(r"^kafka: kafka .*", "kafka: subscription", name)


@asynccontextmanager
async def survives(kafka: KafkaAdmin, topic: str, group: str, recorder: Recorder) -> AsyncIterator[None]:
    """Consuming before the block, and within five seconds after it."""
    brief = {"session.timeout.ms": 1000, "heartbeat.interval.ms": 200}
    broker = KafkaBroker(f"kafka://{kafka.bootstrap}", group=group, properties=brief)
    handled: list[int] = []

    @broker.subscriber(topic)
    async def handle(number: int) -> None:
        handled.append(number)
        recorder.handled(number)

    async with trio.open_nursery() as nursery:
        await nursery.start(Runtime(broker, grace=1).serve)
        await broker.publish(0, topic)
        recorder.confirmed(0)
        await until(lambda: handled)
        yield
        recorder.mark_fault(unsettled=1)
        with trio.move_on_after(5):
            await kafka.add(topic, b"1")
            await until(lambda: 1 in handled)
            recorder.confirmed(1)
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancel_called, "silence: neither handled nor raised"


#: One that is the adapter's own; those of the core have their own test, which takes no seconds.
OWN = ("consumer: end",)


@pytest.mark.parametrize("name", [n if n in OWN else pytest.param(n, marks=[pytest.mark.soak]) for n in FATE])
async def test_29_a_killed_task_ends_in_recovery_or_in_an_error_and_never_in_silence(
    kafka: KafkaAdmin, topic: str, fault_table: FaultTable, name: str
) -> None:
    async def trial() -> None:
        async with survives(kafka, topic, topic, recorder):
            tasks = {role(task): task for task in tasks_of_the_run()}
            assert set(tasks) - {"runtime.app.Runtime.serve", "drain watch"} == set(FATE), "the table names them all"
            kill(tasks[name])
            recorder.fault(f"{name} was killed", proof=True)
            await trio.lowlevel.checkpoint()

    with Recorder(29, f"{name} killed", broker="kafka") as recorder:
        if FATE[name] == "heals":
            await trial()
        else:
            with pytest.RaisesGroup(Boom, flatten_subgroups=True):
                await trial()
        fault_table.add(recorder.check(duplicates_at_most=1))


@pytest.mark.parametrize("name", ["producer", "consumer"])
async def test_29_a_thread_that_dies_is_the_end_of_its_session_and_no_more(
    kafka: KafkaAdmin, topic: str, fault_table: FaultTable, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[ClientThread] = []
    start = ClientThread.start

    def started(self: ClientThread, drive: Callable[[], None]) -> None:
        threads.append(self)
        start(self, drive)

    def boom() -> None:
        raise Boom

    monkeypatch.setattr(ClientThread, "start", started)
    with Recorder(29, f"thread of the {name} killed", broker="kafka") as recorder:
        async with survives(kafka, topic, topic, recorder):
            (thread,) = (thread for thread in threads if re.search(rf" {name}( \d+)?$", thread.name))
            thread.tell(boom)
            with pytest.raises(Boom):
                await thread.run()
            recorder.fault("it died", proof=isinstance(thread.error, Boom))
        fault_table.add(recorder.check(duplicates_at_most=1, recovery_within=5))
