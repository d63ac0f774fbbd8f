"""The end of a run: its phases, its deadlines, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

#: Seconds for the last acks and publishes once the handlers are done and the grace is used up.
FLUSH_LIMIT: Final = 1.0
#: The same when the run is torn down by a cancel: whoever cancels wants it over now.
TEARDOWN_FLUSH_LIMIT: Final = 0.3
#: Seconds past the grace at which `run()` ends the process by force.
HARD_EXIT_AFTER: Final = 2.0


class Phase(Enum):
    IDLE = "idle"
    RUNNING = "running"
    #: Takes nothing new; handlers have until the grace is over.
    DRAINING = "draining"
    #: The grace is over: handlers are being cancelled.
    CANCELLING = "cancelling"
    CLOSED = "closed"


@dataclass(slots=True)
class Drain:
    """When and why a run stops. `begin` may be called from anywhere in the Trio thread, any number of times."""

    grace: float
    reason: str | None = None
    #: When the handlers' time is over, by Trio's clock; None while running.
    deadline: float | None = None

    def begin(self, reason: str, now: float) -> bool:
        """Whether this call was the one that began it."""
        if self.deadline is not None:
            return False
        self.reason, self.deadline = reason, now + self.grace
        return True

    def flush_deadline(self, now: float) -> float:
        """Until when acks and publishes may be flushed: the rest of the grace, and at least `FLUSH_LIMIT`."""
        return max(self.deadline or now, now + FLUSH_LIMIT)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    reason: str
    #: Handlers that were cancelled because the grace was over.
    cancelled: int
    #: Settlements that did not reach their broker in time: these messages will be delivered again.
    unflushed: int
    #: The lifespan was cancelled, because the grace was over before it had started or long before it had ended.
    lifespan_cancelled: bool = False

    @property
    def exit_status(self) -> int:
        """0 after a clean drain, 3 if handlers or the lifespan had to be cancelled, 1 if settlements were left over."""
        return 3 if self.cancelled or self.lifespan_cancelled else 1 if self.unflushed else 0

    def __str__(self) -> str:
        if self.cancelled:
            return (
                f"{self.cancelled} handler(s) cancelled at the end of the grace; their messages will be delivered again"
            )
        if self.lifespan_cancelled:
            return "the lifespan cancelled at the end of the grace"
        if self.unflushed:
            return f"{self.unflushed} settlement(s) not delivered in time; their messages will be delivered again"
        return "clean: every message taken was settled"
