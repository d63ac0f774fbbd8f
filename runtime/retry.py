"""What becomes of a delivery whose handler failed: pure, (attempt, error) → outcome.

This is the small bounded default that keeps a failing message from looping hot, and from being tried for ever.
"""

from __future__ import annotations

from typing import Final

from .delivery import Outcome, Reject, Release
from .errors import BrokerUnavailable, describe, leaves

#: A message is handed to its handler this often before it is set aside.
MAX_ATTEMPTS: Final = 5
#: Seconds before the second attempt; doubles for each one after.
FIRST_DELAY: Final = 0.2
#: Seconds to wait when the handler could not reach another broker. Its message is not to blame, so it is not counted.
PAUSE: Final = 1.0


def decide(attempt: int, error: BaseException) -> Outcome:
    """Release for a later attempt, or reject when there were enough."""
    if any(isinstance(leaf, BrokerUnavailable) for leaf in leaves(error)):
        return Release(after=PAUSE, counted=False)
    if attempt >= MAX_ATTEMPTS:
        return Reject(f"failed {attempt} times, the last time with {describe(error)}")
    return Release(after=FIRST_DELAY * 2.0 ** (attempt - 1))
