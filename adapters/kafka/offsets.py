"""How far a partition may be committed: the highest offset below which everything is settled. No I/O, no Trio."""

from __future__ import annotations

import heapq


class Offsets:
    """The offsets of one partition that were taken, settled in any order.

    Invariant: `position` never passes an offset that was taken and is not settled. Offsets are taken in rising order;
    those in between that were never seen (compacted away, transaction markers) hold nothing up.
    """

    def __init__(self) -> None:
        #: Taken and not settled.
        self._open: set[int] = set()
        # The same and some settled ones, a heap: its first open one is the lowest.
        self._order: list[int] = []
        self._next = 0
        self._settled = False

    def __len__(self) -> int:
        """How many are taken and not settled."""
        return len(self._open)

    def take(self, offset: int) -> None:
        """`offset` has been handed out. Each once."""
        self._open.add(offset)
        heapq.heappush(self._order, offset)
        self._next = max(self._next, offset + 1)

    def settle(self, offset: int) -> None:
        """`offset` is done with. Raises KeyError if it was not taken, or is settled already."""
        self._open.remove(offset)
        self._settled = True
        while self._order and self._order[0] not in self._open:
            heapq.heappop(self._order)

    @property
    def position(self) -> int | None:
        """What may be committed: the offset to go on with after a restart. None while nothing was settled."""
        if not self._settled:
            return None
        return self._order[0] if self._order else self._next
