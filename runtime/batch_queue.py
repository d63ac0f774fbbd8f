"""A queue whose reader takes everything at once: batching without a timer.

While one batch is being sent the next one gathers, so a batch is as large as the broker is slow: one message at a time
when idle, hundreds under load. Nothing ever waits for a batch to fill.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

import trio

T = TypeVar("T", bound=Hashable)


class BatchQueue(Generic[T]):
    """Many put, synchronously; one task takes. Items are in the queue until taken, then *out* until `done`."""

    def __init__(self) -> None:
        # A dict for its order and for removal in O(1): a cancelled publish leaves from the middle.
        self._items: dict[T, None] = {}
        self._out = 0
        self._filled = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        """How many are queued or out."""
        return len(self._items) + self._out

    def put(self, item: T) -> None:
        self._items[item] = None
        self._filled.unpark()

    def put_back(self, items: Iterable[T]) -> None:
        """Put what was taken and not sent back to the front, in its order."""
        self._items = {**dict.fromkeys(items), **self._items}

    def discard(self, item: T) -> None:
        """Take `item` out if it is still in."""
        self._items.pop(item, None)
        self._check_idle()

    async def wait(self) -> None:
        """Wait until something is queued."""
        while not self._items:
            await self._filled.park()

    def take(self, most: int) -> list[T]:
        """All that is queued, up to `most`; they are out until `done`."""
        if len(self._items) <= most:
            batch = list(self._items)
            self._items.clear()
        else:
            batch = list(self._items)[:most]
            for item in batch:
                del self._items[item]
        self._out += len(batch)
        return batch

    def done(self, count: int) -> None:
        """`count` of those that were out are sent, or back in the queue."""
        self._out -= count
        self._check_idle()

    async def idle(self) -> None:
        """Wait until nothing is queued and nothing is out."""
        while len(self):
            await self._idle.park()

    def _check_idle(self) -> None:
        if not len(self):
            self._idle.unpark_all()
