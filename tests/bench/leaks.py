"""What a test left behind: tasks, threads, sockets, files."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import trio


@dataclass(frozen=True)
class Holdings:
    """What this process holds on to."""

    threads: frozenset[str]
    sockets: int
    files: int
    tasks: int

    @classmethod
    def now(cls) -> Holdings:
        """Inside Trio or outside of it. Trio's idle worker threads are its cache, not anybody's leak."""
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                pass  # the listing's own descriptor
        sockets = sum(link.startswith("socket:") for link in links)
        threads = {t.name for t in threading.enumerate() if not t.name.startswith("Trio thread")}
        return cls(frozenset(threads), sockets, len(links) - sockets, _tasks())

    def within(self, other: Holdings) -> bool:
        """Whether this is no more than `other`, tasks aside."""
        return self.threads <= other.threads and self.sockets <= other.sockets and self.files <= other.files


def _tasks() -> int:
    try:
        return trio.lowlevel.current_statistics().tasks_living
    except RuntimeError:
        return 0
