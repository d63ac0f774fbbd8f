"""Any command in a process of its own, watched from a Trio test. `worker` is the one for a module of handlers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import trio


class Worker:
    """A running process: its output as it comes, its end."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""
        self._grown = trio.lowlevel.ParkingLot()

    async def says(self, text: str, *, times: int = 1, within: float = 15) -> None:
        """Wait until `text` has appeared in its output, standard error included."""
        with trio.move_on_after(within):
            while self.output.count(text) < times:
                await self._grown.park()
            return
        raise AssertionError(f"the worker did not say {text!r} {times}x within {within} s, but:\n{self.output}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ends(self, within: float) -> tuple[int, float]:
        """Its exit status and how many seconds it took to end, at most `within`."""
        began = trio.current_time()
        with trio.move_on_after(within):
            status = await self.process.wait()
            return status, trio.current_time() - began
        raise AssertionError(f"the worker had not ended {within} s later; it said:\n{self.output}")

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.output += chunk.decode(errors="replace")
            self._grown.unpark_all()


@asynccontextmanager
async def command(
    *words: str,
    folder: Path,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    environment: Mapping[str, str] = os.environ,
) -> AsyncIterator[Worker]:
    """Run `words` in `folder`; killed when the block ends. With `stdin=PIPE` its `process.stdin` is a stream."""
    environment = {**environment, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"}
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
