"""The lease on an assigned partition: from the assignment to the revoke, and what of it is being handled."""

from __future__ import annotations

from typing import NamedTuple

from runtime.delivery import Delivery

from .offsets import Offsets


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Lease:
    """One assignment of one partition. Assigned again, it is another lease: what the first one brought is lost with it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        #: From a revoke on nothing more is handed out.
        self.is_open = True
        self.offsets = Offsets()
        #: What was handed out and not settled.
        self.running: dict[Receipt, Delivery] = {}

    def settle(self, receipt: Receipt) -> None:
        """Done with: the offset need not be read again."""
        del self.running[receipt]
        self.offsets.settle(receipt.offset)

    def end(self) -> list[Delivery]:
        """The partition is somebody else's. Returns the deliveries that are lost by it."""
        self.is_open = False
        lost = list(self.running.values())
        self.running.clear()
        return lost


class Receipt:
    """The name of one delivery: compared by identity, so unique among assignments and attempts."""

    __slots__ = ("lease", "offset")

    def __init__(self, lease: Lease, offset: int) -> None:
        self.lease = lease
        self.offset = offset

    @property
    def is_held(self) -> bool:
        """Whether it can be settled."""
        return self in self.lease.running

    def __repr__(self) -> str:
        return f"{self.lease.place}@{self.offset}"
