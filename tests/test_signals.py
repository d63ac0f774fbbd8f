"""Signals, from the outside: what ends a process, when, with which status, and what it says."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from textwrap import indent

import pytest
import trio

from adapters.memory import MemoryBroker
from runtime import ConfigurationError, Runtime, current_run

from .bench.command import command
from .bench.worker import worker

#: What a test promises a process that is stuck: its grace, and the two seconds after which it ends by force.
GRACE = 0.5
FORCED = 2.0


def handling(body: str) -> str:
    """A module whose handler says that it begins, does `body`, and says that it is done. It gets three messages."""
    return f"""
import time
import trio
from runtime import Router

router = Router()

@router.task
async def feed():
    for number in range(3):
        await router.publish(number, "work")

@router.subscriber("work", concurrency=1)
async def handle(number: int) -> None:
    print("begin", number)
{indent(body, "    ")}
    print("done", number)
"""


def starting(body: str) -> str:
    """A module whose lifespan does `body` before it lets the run begin."""
    return f"""
import time
from contextlib import asynccontextmanager
import trio
from adapters.memory import MemoryBroker
from runtime import Runtime

@asynccontextmanager
async def lifespan(app):
    print("starting")
{indent(body, "    ")}
    yield

app = Runtime(MemoryBroker(), lifespan=lifespan)
"""


@pytest.mark.promise("P9")
async def test_first_signal_lets_the_handler_finish_takes_nothing_new_and_ends_with_0(tmp_path: Path) -> None:
    async def case(number: signal.Signals) -> None:
        folder = tmp_path / number.name
        folder.mkdir()
        async with worker(folder, handling("await trio.sleep(0.5)")) as running:
            await running.says("begin 0")
            running.signal(number)
            status, seconds = await running.ends(within=5)
        assert (status, seconds < 2) == (0, True), running.output
        assert f"stopping: {number.name}" in running.output
        assert "done 0" in running.output
        assert "begin 1" not in running.output

    async with trio.open_nursery() as nursery:
        for number in (SIGTERM, SIGINT, SIGHUP):
            nursery.start_soon(case, number)


@pytest.mark.promise("P9")
async def test_second_signal_cuts_the_drain_short_and_is_the_status(tmp_path: Path) -> None:
    async def case(first: signal.Signals, second: signal.Signals) -> None:
        folder = tmp_path / f"{first.name}-{second.name}"
        folder.mkdir()
        async with worker(folder, handling("await trio.sleep(60)")) as running:
            await running.says("begin 0")
            running.signal(first)
            # The kernel makes one of two equal signals that are pending together.
            await running.says("stopping")
            running.signal(second)
            status, seconds = await running.ends(within=5)
        assert (status, seconds < 2) == (128 + second, True), running.output
        assert "by force" not in running.output

    async with trio.open_nursery() as nursery:
        nursery.start_soon(case, SIGTERM, SIGTERM)
        nursery.start_soon(case, SIGINT, SIGINT)
        nursery.start_soon(case, SIGTERM, SIGINT)
        nursery.start_soon(case, SIGINT, SIGTERM)


@pytest.mark.promise("P2")
async def test_handler_that_outlasts_the_grace_is_cancelled_and_the_status_is_3(tmp_path: Path) -> None:
    body = """
try:
    await trio.sleep(60)
finally:
    print("cleaned up")
"""
    async with worker(tmp_path, handling(body), "--grace", str(GRACE)) as running:
        await running.says("begin 0")
        running.signal()
        status, seconds = await running.ends(within=5)
    assert status == 3, running.output
    assert GRACE - 0.1 <= seconds < GRACE + 1.5
    assert "cleaned up" in running.output
    assert "1 handler(s) cancelled" in running.output
    assert "by force" not in running.output


STUCK = {
    "synchronous code": "time.sleep(60)",
    "a thread": "await trio.to_thread.run_sync(time.sleep, 60)",
    "a shield of its own": "with trio.CancelScope(shield=True):\n    await trio.sleep(60)",
    "a swallowed cancel": "while True:\n    try:\n        await trio.sleep(60)\n    except trio.Cancelled:\n        pass",
}


@pytest.mark.promise("P2")
async def test_what_cannot_be_cancelled_is_named_and_the_process_ends_two_seconds_after_the_grace(
    tmp_path: Path,
) -> None:
    async def case(name: str, module: str, stuck: str, blamed: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        async with worker(folder, module, "--grace", str(GRACE)) as running:
            await running.says(stuck)
            running.signal()
            status, seconds = await running.ends(within=GRACE + 4)
        assert status == 3, (name, running.output)
        assert GRACE + FORCED - 0.5 < seconds < GRACE + FORCED + 2, (name, running.output)
        assert f"by force; could not be cancelled: {blamed}" in running.output, (name, running.output)

    async with trio.open_nursery() as nursery:
        for name, body in STUCK.items():
            nursery.start_soon(case, name, handling(body), "begin 0", "handlers.handle (message ")
        nursery.start_soon(case, "lifespan", starting("time.sleep(60)"), "starting", "the start of the lifespan")


@pytest.mark.promise("P2")
async def test_second_signal_ends_what_cannot_be_cancelled_two_seconds_later_whatever_is_left_of_the_grace(
    tmp_path: Path,
) -> None:
    async def case(name: str, body: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        async with worker(folder, handling(body)) as running:
            await running.says("begin 0")
            running.signal(SIGTERM)
            # At once: the second may come while the first is being handled, and another thread may be given it.
            running.signal(SIGINT)
            status, seconds = await running.ends(within=FORCED + 2)
        # Of two that are pending together, Python takes the lower number first.
        assert status in (128 + SIGINT, 128 + SIGTERM), (name, running.output)
        assert seconds > FORCED - 0.5, (name, running.output)
        assert "by force; could not be cancelled: handlers.handle (message " in running.output, (name, running.output)

    async with trio.open_nursery() as nursery:
        for name, body in STUCK.items():
            nursery.start_soon(case, name, body)


@pytest.mark.promise("P2")
async def test_further_signals_do_not_put_off_the_end_by_force(tmp_path: Path) -> None:
    async with worker(tmp_path, handling(STUCK["synchronous code"])) as running:
        await running.says("begin 0")
        running.signal(SIGTERM)
        running.signal(SIGINT)
        began = trio.current_time()
        with trio.move_on_after(FORCED + 2):
            while running.process.poll() is None:
                running.signal(SIGINT)
                await trio.sleep(0.1)
        seconds = trio.current_time() - began
    assert running.process.returncode in (128 + SIGINT, 128 + SIGTERM), running.output
    assert FORCED - 0.5 < seconds < FORCED + 2


async def test_hangup_means_nothing_to_a_process_that_inherited_it_as_ignored(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(
        """
import itertools
import trio
from runtime import Router

router = Router()

@router.task
async def tick():
    for number in itertools.count():
        print("tick", number)
        await trio.sleep(0.05)
"""
    )
    # What nohup does; the shell's word for it is the same everywhere.
    like_nohup = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"']
    async with command(*like_nohup, sys.executable, "-m", "runtime", "run", "handlers", folder=tmp_path) as running:
        await running.says("tick")
        running.signal(SIGHUP)
        await running.says("tick", times=running.output.count("tick") + 5)
        assert "stopping" not in running.output
        running.signal(SIGTERM)
        status, _ = await running.ends(within=5)
    assert status == 0, running.output
    assert "stopping: SIGTERM" in running.output


async def test_signal_during_the_import_of_a_module_ends_the_process_at_once(tmp_path: Path) -> None:
    async def case(number: signal.Signals) -> None:
        folder = tmp_path / number.name
        folder.mkdir()
        async with worker(folder, "import time\nprint('importing')\ntime.sleep(30)\n") as running:
            await running.says("importing")
            running.signal(number)
            status, _ = await running.ends(within=2)
        assert status == 0, running.output
        assert "Traceback" not in running.output

    async with trio.open_nursery() as nursery:
        nursery.start_soon(case, SIGTERM)
        nursery.start_soon(case, SIGINT)


@pytest.mark.promise("P2")
async def test_lifespan_that_hangs_at_the_start_has_the_grace_and_no_longer(tmp_path: Path) -> None:
    async with worker(tmp_path, starting("await trio.sleep_forever()"), "--grace", str(GRACE)) as running:
        await running.says("starting")
        running.signal()
        status, seconds = await running.ends(within=5)
    assert status == 3, running.output
    assert GRACE - 0.1 <= seconds < GRACE + 1.5
    assert "by force" not in running.output


# ---- in this process -----------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Runtime:
    broker = MemoryBroker()

    @broker.task
    async def leave() -> None:
        current_run().stop("nothing to do")

    return Runtime(broker)


@pytest.fixture
def handlers_stay_the_same() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (SIGTERM, SIGINT, SIGHUP)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("handlers_stay_the_same")
def test_run_gives_the_signal_handlers_back(app: Runtime) -> None:
    assert app.run() == 0
    assert app.run() == 0


@pytest.mark.usefixtures("handlers_stay_the_same")
def test_run_gives_the_signal_handlers_back_when_a_task_of_the_user_crashes() -> None:
    broker = MemoryBroker()

    @broker.task
    async def crash() -> None:
        raise ZeroDivisionError("the user's own")

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        Runtime(broker).run()


@pytest.mark.usefixtures("handlers_stay_the_same")
def test_run_outside_of_the_main_thread_is_refused_with_what_to_do_instead(app: Runtime) -> None:
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(ConfigurationError, match=r"main thread; elsewhere use trio\.run\(app\.serve\)"):
            thread.submit(app.run).result()
