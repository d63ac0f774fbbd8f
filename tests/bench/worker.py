"""`runtime run` in a process of its own, watched from a Trio test."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from .command import Worker, command


@asynccontextmanager
async def worker(
    folder: Path, module: str, *arguments: str, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[Worker]:
    """Write `module` to `folder`/handlers.py and start `runtime run handlers *arguments`; killed when the block ends."""
    (folder / "handlers.py").write_text(module)
    words = (sys.executable, "-m", "runtime", "run", "handlers", *arguments)
    async with command(*words, folder=folder, environment=environment) as running:
        yield running


#: Prints what it handles; what it does meanwhile is the test's to choose.
PRINTING = """
import trio
from runtime import Runtime
{setup}
broker = {broker}
app = Runtime(broker, grace={grace})

@broker.subscriber({source}, concurrency=200)
async def handle(number: int) -> None:
    print("handling", number, flush=True)
    await trio.sleep({duration})
    print("handled", number, flush=True)
"""


def printing(broker: str, source: str, *, setup: str, grace: float = 10, duration: float = 0) -> str:
    """A module that says what it handles. `setup` imports what the expressions `broker` and `source` are made of."""
    return PRINTING.format(broker=broker, source=source, setup=setup, grace=grace, duration=duration)
