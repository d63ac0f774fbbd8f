"""What a piece of work left behind: tasks, threads, sockets."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from .waiting import until


@dataclass(frozen=True)
class Holdings:
    """What this process holds. Sockets count where there is a /proc to count them in."""

    threads: frozenset[threading.Thread]
    sockets: int
    tasks: int

    @classmethod
    def now(cls) -> Holdings:
        # Trio's idle worker threads are its cache, and nobody's leak.
        threads = frozenset(t for t in threading.enumerate() if not t.name.startswith("Trio thread"))
        return cls(threads, _sockets(), trio.lowlevel.current_statistics().tasks_living)

    def beyond(self, before: Holdings) -> dict[str, int]:
        """What is here and was not there."""
        more = {
            "threads": len(self.threads - before.threads),
            "sockets": self.sockets - before.sockets,
            "tasks": self.tasks - before.tasks,
        }
        return {kind: count for kind, count in more.items() if count > 0}


@asynccontextmanager
async def nothing_left(patience: float) -> AsyncIterator[None]:
    """The block leaves no task, thread or socket behind. `patience` is for what a rig holds for the adapter (a proxy's
    half of each connection), which goes a moment later."""
    gc.collect()
    before = Holdings.now()
    yield

    def left_over() -> dict[str, int]:
        if Holdings.now().beyond(before):
            gc.collect()  # what only waits for the collector is no leak
        return Holdings.now().beyond(before)

    await until(lambda: not left_over(), patience, lambda: f"left over: {left_over()}")


def _sockets() -> int:
    count = 0
    try:
        descriptors = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return 0
    for descriptor in descriptors:
        try:
            count += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
        except FileNotFoundError:
            pass  # the listing's own
    return count
