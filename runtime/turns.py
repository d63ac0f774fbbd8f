"""Whose turn it is to run: concurrency and per-key order, decided synchronously. No I/O, no Trio."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """At most `concurrency` run at once, and of those with one key at most one, in the order they arrived.

    A *lane* is a key that someone holds; whoever waits for it waits in the lane. Whoever has its lane and waits only for
    room waits in `_ready`. Invariant: someone is in `_ready` only while `running == concurrency`.
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.running = 0
        self._ready: deque[T] = deque()
        self._lanes: dict[str, deque[T]] = {}

    def arrive(self, ticket: T, key: str | None) -> bool:
        """Whether `ticket` may run now. If not, some `leave` will return it later."""
        if key is not None:
            if key in self._lanes:
                self._lanes[key].append(ticket)
                return False
            self._lanes[key] = deque()
        if self.running < self.concurrency:
            self.running += 1
            return True
        self._ready.append(ticket)
        return False

    def leave(self, key: str | None) -> T | None:
        """One with this key has run. Returns the one that may run in its place."""
        self.running -= 1
        # After `close` the lanes are gone.
        lane = self._lanes.get(key) if key is not None else None
        if lane is not None and key is not None:
            if lane:
                self._ready.append(lane.popleft())
            else:
                del self._lanes[key]
        if not self._ready:
            return None
        self.running += 1
        return self._ready.popleft()

    def close(self) -> list[T]:
        """Nobody new gets a turn. Returns all who waited; for each key in order of arrival."""
        waiting = [*self._ready, *(ticket for lane in self._lanes.values() for ticket in lane)]
        self._ready.clear()
        self._lanes.clear()
        return waiting
