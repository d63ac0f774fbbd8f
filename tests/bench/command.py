"""Any command in a process of its own, watched from a Trio test. `worker` is the one for a module of handlers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import trio

from .worker import Worker


@asynccontextmanager
async def command(*words: str, folder: Path, stdin: int | IO[Any] = subprocess.DEVNULL) -> AsyncIterator[Worker]:
    """Run `words` in `folder`; killed when the block ends. With `stdin=PIPE` its `process.stdin` is a stream."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}
    process = await trio.lowlevel.open_process(
        words, cwd=folder, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    # The reader has to be gone before its pipe is closed: hence the nursery within.
    async with process.stdout, trio.open_nursery() as nursery:
        running = Worker(process)
        nursery.start_soon(running.read)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                await process.wait()
                if process.stdin is not None:
                    await process.stdin.aclose()
            # Nothing is awaited after this: a Cancelled would take the place of what the body raised.
            nursery.cancel_scope.cancel()
