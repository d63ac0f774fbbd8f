"""How much of a shared consumer's catch waits for one subscription: what back-pressure goes by."""

from __future__ import annotations

from .topics import Topic


class Inlet:
    """Counted on both sides of the crossing without a lock: each number has one writer, the thread or Trio."""

    __slots__ = ("began", "full_since", "is_paused", "posted", "source", "taken")

    def __init__(self, source: Topic, *, began: bool) -> None:
        self.source = source
        #: Written by the thread: records sent across.
        self.posted = 0
        #: Written by Trio: records handed on or dropped.
        self.taken = 0
        #: Written by the thread: its partitions are paused.
        self.is_paused = False
        #: Written by the thread: since when there is no room (`time.monotonic`).
        self.full_since: float | None = None
        #: Written by the thread once open: an uncommitted partition that appears later is new, and read from its beginning.
        self.began = began

    @property
    def waiting(self) -> int:
        return self.posted - self.taken
