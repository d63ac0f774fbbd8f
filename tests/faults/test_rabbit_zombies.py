"""Every task inside a run on a real RabbitMQ is killed in turn, those of its connections too: never a zombie."""

from __future__ import annotations

import re

import pytest
import trio

from adapters.rabbitmq import RabbitBroker
from runtime import Runtime
from runtime.errors import MessagingError

from ..bench.rabbit import Vhost
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.tasks import Boom, kill, tasks_of_the_run
from ..bench.waiting import until

pytestmark = pytest.mark.broker("rabbitmq")


@pytest.mark.promise("P8")
@pytest.mark.timeout(120)
async def test_29_a_killed_task_ends_in_recovery_or_in_an_error_and_never_in_silence(
    rabbit: Vhost, fault_table: FaultTable
) -> None:
    with Recorder(29, "every internal task killed in turn", broker="rabbitmq") as recorder:
        victims = await killed(rabbit, "orders-0", None)
        for part in ("supervisor", "watchdog", "reader", "writer", "heartbeat"):
            assert any(part in victim for victim in victims), victims
        loud: list[str] = []
        for number, victim in enumerate(victims, 1):
            try:
                await killed(rabbit, f"orders-{number}", victim)
            except* Boom:
                loud.append(victim)
        healed = [victim for victim in victims if victim not in loud]
        # What a lost connection can mend is mended.
        for part in ("watchdog", "reader", "writer", "heartbeat"):
            assert any(part in victim for victim in healed), healed
        recorder.fault("tasks killed", proof=victims)
        fault_table.add(recorder.check())


async def killed(rabbit: Vhost, queue: str, victim: str | None) -> list[str]:
    """Serve a broker, kill its task of that name if there is to be one, and return the names of all.

    Within five seconds of the death a new message has been published and handled, or `Boom` comes out of here.
    """
    broker = RabbitBroker(rabbit.url)
    handled: list[int] = []

    @broker.subscriber(queue)
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker, grace=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await until(lambda: app.status().ready)
        await broker.publish(1, queue)
        await until(lambda: handled and not app.status().broker("amqp").subscriptions[0].unsettled)
        tasks = named(tasks_of_the_run())
        if victim is not None:
            kill(tasks[victim])
        with trio.move_on_after(5):
            while 2 not in handled:
                try:
                    await broker.publish(2, queue)
                except (MessagingError, trio.ClosedResourceError):
                    pass  # it was under way when the connection went, or the run is on its way out
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancel_called, f"{victim} killed: silence, neither handled nor raised"
    return list(tasks)


def named(tasks: list[trio.lowlevel.Task]) -> dict[str, trio.lowlevel.Task]:
    """By name, without what is another in every run; of several with one name each has a number."""
    found: dict[str, trio.lowlevel.Task] = {}
    for task in tasks:
        name = re.sub(r"\S*-[0-9]+-[0-9a-f]{8}|-[0-9]+", "…", task.name)
        same = sum(other.partition(" #")[0] == name for other in found)
        found[f"{name} #{same + 1}" if same else name] = task
    return found
