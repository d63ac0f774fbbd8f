"""When to try again: pure functions, so that an hour of failures can be tested in a microsecond."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigurationError, Refused, SessionLost, leaves


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between attempts, all in seconds.

    The wait doubles from `first` up to `cap` and is jittered between half of that and all of it, so that a fleet of
    workers does not come back in step. `floor` is the least wait after an error that trying again cannot mend.
    An attempt that then held for `stable` starts the count afresh.
    """

    first: float = 0.1
    cap: float = 4.0
    floor: float = 1.0
    stable: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.cap and self.floor >= 0 and self.stable >= 0):
            raise ConfigurationError(f"{self!r} cannot be: 0 < first <= cap, and neither floor nor stable below 0")

    def delay(self, attempt: int, jitter: float, *, hopeless: bool = False) -> float:
        """The wait after failed attempt number `attempt` (from 1); `jitter` is uniform in [0, 1)."""
        # The exponent is clipped: after a week of failures 2**attempt would not fit a float.
        wait = min(self.cap, self.first * 2.0 ** min(attempt - 1, 32)) * (0.5 + 0.5 * jitter)
        return max(wait, self.floor) if hopeless else wait

    def next_attempt(self, attempt: int, uptime: float) -> int:
        """The number of the attempt that just failed, given the number before it and how long this one held."""
        return 1 if uptime >= self.stable else attempt + 1


def is_hopeless(error: BaseException) -> bool:
    """Whether trying again at once cannot help: the broker refused, or the fault is not of the network at all."""
    return any(isinstance(leaf, Refused) or not isinstance(leaf, OSError | SessionLost) for leaf in leaves(error))
