"""Faults of a process that runs handlers: signals in every moment, and kills. Told for all brokers, like `stories`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import trio

from runtime import Broker, Runtime

from ..bench.command import Worker
from ..bench.proxy import Proxy
from ..bench.recorder import Recorder
from ..bench.resolver import slow_resolver
from ..bench.table import Row
from ..bench.waiting import told, until, until_told
from ..bench.worker import worker
from .place import Place, record_handled

#: Has the server given 0 … count - 1 in a source by another program. May have to be awaited, as all that asks a server.
AddNumbers = Callable[[str, int], object]

#: A module for `worker` that prints what it handles.
WORKER = """
import trio
from runtime import Message, Runtime
from {module} import {name}
{setup}
broker = {name}({arguments}, probe_interval=1)
app = Runtime(broker, grace={grace})

@broker.subscriber("orders", concurrency=200, ordered_by="key")
async def handle(number: int, message: Message) -> None:
    print("handling", number, flush=True)
    await trio.sleep({duration})
    print("handled", number, message.key, flush=True)
"""


def worker_module(
    place: Place,
    port: int | None = None,
    *,
    host: str = "127.0.0.1",
    setup: str = "",
    grace: float = 10,
    duration: float = 0,
) -> str:
    return place.module(WORKER, port, host=host, setup=setup, grace=grace, duration=duration)


@asynccontextmanager
async def in_flight(
    place: Place, recorder: Recorder, folder: Path, count: int, add_numbers: AddNumbers, **options: float
) -> AsyncIterator[Worker]:
    """A worker that handles `count` messages at the same time."""
    async with worker(folder, worker_module(place, **options)) as running:  # type: ignore[arg-type]
        await running.says("connected")
        await told(add_numbers("orders", count))  # at once: none may be done before the last has begun
        for number in range(count):
            recorder.confirmed(number)
        await running.says("handling", times=count)
        recorder.mark_fault(unsettled=count)
        yield running


def tell(recorder: Recorder, output: str) -> None:
    """What the worker that said `output` has handled."""
    for line in output.splitlines():
        if line.startswith("handled "):
            _, number, key = line.split()
            recorder.handled(int(number), None if key == "None" else key)


async def sigterm_with_200_in_flight(
    place: Place, folder: Path, add_numbers: AddNumbers, is_settled: Callable[[], object]
) -> Row:
    with place.recorder(22, "SIGTERM, 200 in flight") as recorder:
        async with in_flight(place, recorder, folder, 200, add_numbers, duration=1) as running:
            recorder.fault("in flight", proof="handled" not in running.output)
            running.signal()
            status, _ = await running.ends(within=10)
            recorder.mark_recovered()
            assert status == 0, running.output
        tell(recorder, running.output)
        recorder.fault("all is settled", proof=await told(is_settled()))
        return recorder.check()


async def sigterm_with_a_stuck_handler(place: Place, folder: Path, add_numbers: AddNumbers) -> Row:
    """It is cancelled when the grace is over, and another process gets its message."""
    with place.recorder(23, "SIGTERM, one handler stuck") as recorder:
        async with in_flight(place, recorder, folder, 1, add_numbers, duration=3600, grace=1) as running:
            running.signal()
            status, seconds = await running.ends(within=5)
            assert (status, 0.9 < seconds < 1 + 2) == (3, True), running.output
            recorder.fault("named and cancelled", proof="handlers.handle" in running.output.split("is over")[1])
        broker = place.broker()
        handled = record_handled(broker, recorder)
        async with Runtime(broker).open():
            await until(lambda: handled == [0], within=5)
        return recorder.check(recovery_within=5)


async def killed_with_40_in_flight(
    place: Place, folder: Path, add_numbers: AddNumbers, again: Broker[Any], source: Any, within: float
) -> Row:
    """`again` reads what the dead worker left in `source`."""
    with place.recorder(24, "worker killed, 40 in flight") as recorder:
        async with in_flight(place, recorder, folder, 40, add_numbers, duration=3600) as running:
            running.process.kill()
            recorder.fault("killed", proof=await running.process.wait() == -9)
        for number in range(40):
            recorder.handled(number)
        recorder.mark_fault(unsettled=40)
        handled = record_handled(again, recorder, source)
        async with Runtime(again).open():
            await until(lambda: len(handled) >= 40, within=within)
        assert sorted(handled) == list(range(40))
        return recorder.check(duplicates_at_most=40, recovery_within=within)


async def rolling_restart(place: Place, folder: Path) -> Row:
    """One worker after the other, each ended with SIGTERM, while messages of four keys come in all the time."""
    with place.recorder(25, "rolling restart, 3 times") as recorder:
        broker = place.broker()
        last = trio.Event()
        confirmed: list[int] = []
        handled: list[int] = []

        async def publish(first: int) -> None:
            for number in count(first, 4):
                await broker.publish(number, "orders", key=str(first))
                recorder.confirmed(number)
                confirmed.append(number)
                if last.is_set():
                    return
                await trio.sleep(0.005)

        async with Runtime(broker).open(), trio.open_nursery() as nursery:
            for first in range(4):
                nursery.start_soon(publish, first)
            for restart in range(4):
                async with worker(folder, worker_module(place)) as running:
                    await running.says("handled", times=100)
                    if restart == 3:
                        # The last one stays until all that was published is handled.
                        last.set()
                        await until(lambda: nursery.child_tasks == frozenset())
                        await until(lambda: set(confirmed) <= set(handled + _handled(running.output)))  # noqa: B023
                    running.signal()
                    status, _ = await running.ends(within=5)
                    assert status == 0, running.output
                handled += _handled(running.output)
                tell(recorder, running.output)
        recorder.fault("messages for all four workers", proof=len(handled) >= 400)
        return recorder.check()


def _handled(output: str) -> list[int]:
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith("handled ")]


async def sigterm_in(moment: str, place: Place, folder: Path, polls: Callable[[], object]) -> Row:
    """`moment` is one of `MOMENTS`; `polls()` is whether the server sees a consumer that waits."""
    with place.recorder(32, f"SIGTERM in {moment}") as recorder:
        async with place.open_proxy() as proxy:
            setup, host = "", "127.0.0.1"
            environment: Mapping[str, str] = os.environ
            if moment == "slow DNS" and place.connects_itself:
                host, environment = "broker.test", slow_resolver(folder)
            elif moment == "slow DNS":
                host = "broker.test"
                setup = "from tests.bench.dns import install_slow\ninstall_slow({'broker.test': 60.0})"
            elif moment == "black-holed connect":
                proxy.ignore()
            elif moment == "black-holed handshake":
                proxy.swallow()
            elif moment == "back-off":
                proxy.refuse()
            module = worker_module(place, proxy.port, host=host, setup=setup, grace=1)
            async with worker(folder, module, "--log-level", "debug", environment=environment) as running:
                await _reach(moment, proxy, running, polls, recorder)
                recorder.mark_fault(unsettled=0)
                running.signal()
                _, seconds = await running.ends(within=5)
                recorder.mark_recovered()
                assert seconds < 1 + 2, running.output
                assert "Traceback" not in running.output
        return recorder.check(recovery_within=1 + 2)


MOMENTS = [
    "black-holed connect",
    "black-holed handshake",
    "slow DNS",
    "back-off",
    "idle long-poll",
    "black-holed session",
]


async def _reach(moment: str, proxy: Proxy, running: Worker, polls: Callable[[], object], recorder: Recorder) -> None:
    match moment:
        case "slow DNS":
            await running.says("looking up broker.test")
            recorder.fault("a look-up under way", proof="connected" not in running.output)
        case "black-holed connect":
            await until(lambda: proxy.knocking)
            recorder.fault("an attempt without an answer", proof=proxy.knocking)
        case "black-holed handshake":
            await until(lambda: proxy.swallowed_up)
            recorder.fault("a greeting without an answer", proof=proxy.swallowed_up)
        case "back-off":
            await running.says("trying again until it works", times=4)
            recorder.fault("attempts refused", proof=proxy.refuses())
        case _:
            await running.says("connected")
            await until_told(lambda: told(polls()))
            recorder.fault("a consumer that waits", proof=await told(polls()))
            if moment == "black-holed session":
                proxy.swallow()
            elif moment == "refused reconnect":
                proxy.refuse()
                proxy.reset()
                await running.says("refused")
