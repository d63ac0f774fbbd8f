"""What would be the server process of another broker: topics and their groups. Synchronous, but for one parking lot."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import Literal

import trio

from runtime.message import Message


class Entry:
    """One message in one group: its place, and how often it was handed out."""

    __slots__ = ("attempts", "message", "sequence")

    def __init__(self, message: Message, sequence: int) -> None:
        self.message = message
        self.sequence = sequence
        self.attempts = 0


class Group:
    """The messages that one consumer group has not settled."""

    def __init__(self) -> None:
        self.arrived = trio.lowlevel.ParkingLot()
        # (sequence, entry), a heap: what was taken first is handed out first again, in whatever order it comes back.
        self._ready: list[tuple[int, Entry]] = []
        # (due by Trio's clock, sequence, entry)
        self._delayed: list[tuple[float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._ready) + len(self._delayed)

    def add(self, entry: Entry) -> None:
        heapq.heappush(self._ready, (entry.sequence, entry))
        self.arrived.unpark()

    def put_back(self, entries: list[Entry]) -> None:
        for entry in entries:
            heapq.heappush(self._ready, (entry.sequence, entry))
        self.arrived.unpark_all()

    def delay(self, entry: Entry, due: float) -> None:
        heapq.heappush(self._delayed, (due, entry.sequence, entry))
        self.arrived.unpark_all()

    def hurry(self) -> list[Entry]:
        """What is delayed is ready now; returns it."""
        delayed = [entry for _, _, entry in self._delayed]
        self._delayed.clear()
        self.put_back(delayed)
        return delayed

    def lowest(self) -> float:
        """The place of the oldest message in it; infinite if there is none."""
        waiting = [sequence for sequence, _ in self._ready] + [sequence for _, sequence, _ in self._delayed]
        return min(waiting, default=float("inf"))

    def next_due(self) -> float:
        return self._delayed[0][0] if self._delayed else float("inf")

    def take(self, most: int, now: float) -> list[Entry]:
        """Up to `most` entries, those first whose delay is over; each counts as handed out once more."""
        taken: list[Entry] = []
        while self._delayed and len(taken) < most and self._delayed[0][0] <= now:
            taken.append(heapq.heappop(self._delayed)[2])
        while self._ready and len(taken) < most:
            taken.append(heapq.heappop(self._ready)[1])
        for entry in taken:
            entry.attempts += 1
        return taken


class _Log:
    """One topic: its newest messages, for groups that come later, and the groups that exist."""

    def __init__(self, retain: int | None) -> None:
        self.retained: deque[Message] = deque(maxlen=retain)
        self.groups: dict[str, Group] = {}


class MemoryServer:
    """Topics that outlive the runs and the broker objects that use them; give one to several `MemoryBroker`s to share.

    Args:
      retain: how many of a topic's newest messages are kept for groups that do not exist yet. A group that exists
        never loses a message, whatever its backlog. None keeps all.
    """

    def __init__(self, *, retain: int | None = 10_000) -> None:
        self._retain = retain
        self._logs: dict[str, _Log] = {}
        self._sequence = itertools.count(1)

    def publish(self, message: Message, topic: str) -> None:
        log = self._log(topic)
        log.retained.append(message)
        for group in log.groups.values():
            self.add(message, group)

    def group(self, topic: str, name: str, start: Literal["beginning", "end"]) -> Group:
        """The group, created if missing."""
        log = self._log(topic)
        if name not in log.groups:
            group = log.groups[name] = Group()
            if start == "beginning":
                for message in log.retained:
                    self.add(message, group)
        return log.groups[name]

    def add(self, message: Message, group: Group) -> None:
        """Put `message` into one group, as its newest."""
        group.add(Entry(message, next(self._sequence)))

    def messages(self, topic: str) -> list[Message]:
        """The newest messages of `topic`, oldest first, settled or not."""
        return list(self._log(topic).retained)

    def _log(self, topic: str) -> _Log:
        if topic not in self._logs:
            self._logs[topic] = _Log(self._retain)
        return self._logs[topic]
