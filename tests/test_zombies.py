"""Every internal task is killed in turn. Each time messages are handled again within seconds, or serve() has raised."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from runtime import Runtime
from runtime.delivery import Ack

from .bench.tasks import Boom, kill, tasks_of_serve
from .bench.waiting import until
from .fakes import FakeBroker

pytestmark = pytest.mark.promise("P8")

#: What the killed task's death must come to: the run heals, or it ends loudly.
FATE = {
    "Runtime.serve": "raises",
    "broker fake": "raises",
    "drain watch": "raises",
    "fake: supervisor": "heals",
    "fake: watchdog": "heals",
    "probe deadline": "heals",
    "fake: fake orders": "heals",
    "fake: settlement": "raises",
    "fake: outbox": "raises",
    "waiting owner": "raises",
}


def _role(task: trio.lowlevel.Task) -> str:
    """The task's name; one that is made of a handler's and a message's becomes what it does."""
    if task.name.endswith("Runtime.serve"):
        return "Runtime.serve"
    return re.sub(r".*\bhandle (?P<id>\w+)$", r"owner of \g<id>", task.name)


def _internal_tasks() -> dict[str, trio.lowlevel.Task]:
    found: dict[str, trio.lowlevel.Task] = {}
    for task in tasks_of_serve():
        role = _role(task)
        if role == "owner of busy":
            continue  # inside the user's handler, so its errors are the handler's: see test_endpoint
        role = "waiting owner" if role == "owner of second" else role
        assert role not in found, f"two tasks called {role}"
        found[role] = task
    return found


Check = Callable[[FakeBroker, dict[str, trio.lowlevel.Task]], Awaitable[object]]


async def _with_every_task_alive(check: Check) -> None:
    """Serve a broker in the moment in which each internal task exists and waits, and then call `check`."""
    broker, gate = FakeBroker(probe_interval=5), trio.Event()

    @broker.subscriber("orders", concurrency=1, prefetch=3)
    async def handle(body: bytes) -> None:
        if body == b"busy":
            await gate.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(Runtime(broker, grace=1).serve)
        broker.put("busy", "second")
        broker.stuck.add("probe")
        await until(lambda: broker.times("probe"))
        await wait_all_tasks_blocked()
        tasks = _internal_tasks()
        await check(broker, tasks)
        gate.set()
        # Whatever was killed, what is put now is handled within five seconds, or the nursery ends by what serve() raised.
        with trio.move_on_after(5):
            broker.put("after")
            await until(lambda: "after" in broker.settled(Ack))
            nursery.cancel_scope.cancel()
        assert nursery.cancel_scope.cancel_called, "silence: neither handled nor raised"


async def test_the_table_names_every_internal_task_of_a_run(autojump_clock: MockClock) -> None:
    async def check(broker: FakeBroker, tasks: dict[str, trio.lowlevel.Task]) -> None:
        assert sorted(tasks) == sorted(FATE)
        broker.free("probe")

    await _with_every_task_alive(check)


@pytest.mark.parametrize("name", FATE)
async def test_a_killed_task_ends_in_recovery_or_in_an_error_and_never_in_silence(
    autojump_clock: MockClock, name: str
) -> None:
    async def check(broker: FakeBroker, tasks: dict[str, trio.lowlevel.Task]) -> None:
        kill(tasks[name])
        broker.free("probe")

    began = trio.current_time()
    if FATE[name] == "heals":
        await _with_every_task_alive(check)
    else:
        with pytest.RaisesGroup(Boom, flatten_subgroups=True):
            await _with_every_task_alive(check)
    assert trio.current_time() - began <= 5 + 5


@pytest.mark.parametrize(("state", "fate"), [("connecting", "heals"), ("backing off", "raises")])
async def test_a_supervisor_killed_without_a_session_is_no_zombie_either(
    autojump_clock: MockClock, state: str, fate: str
) -> None:
    broker = FakeBroker()

    @broker.subscriber("orders")
    async def handle(body: bytes) -> None: ...

    async def trial() -> None:
        async with trio.open_nursery() as nursery:
            if state == "connecting":
                broker.stuck.add("open")
            else:
                broker.unreachable = OSError("refused")
            await nursery.start(Runtime(broker).serve)
            await trio.sleep(20)
            kill(_internal_tasks()["fake: supervisor"])
            broker.unreachable = None
            broker.free("open")
            broker.put("after")
            with trio.move_on_after(5):
                await until(lambda: broker.settled(Ack))
                nursery.cancel_scope.cancel()
            assert nursery.cancel_scope.cancel_called, "silence: neither handled nor raised"

    if fate == "heals":
        await trial()
    else:
        with pytest.RaisesGroup(Boom, flatten_subgroups=True):
            await trial()
