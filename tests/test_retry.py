"""What becomes of a message whose handler failed."""

from __future__ import annotations

import pytest

from runtime import BrokerUnavailable, OutcomeUnknown
from runtime.delivery import Reject, Release
from runtime.retry import FIRST_DELAY, MAX_ATTEMPTS, PAUSE, decide


@pytest.mark.promise("P6")
def test_a_failed_message_is_released_and_each_time_for_twice_as_long() -> None:
    outcomes = [decide(attempt, ValueError()) for attempt in range(1, MAX_ATTEMPTS)]
    assert outcomes == [Release(after=FIRST_DELAY * 2**n) for n in range(MAX_ATTEMPTS - 1)]
    assert all(isinstance(outcome, Release) and outcome.after > 0 and outcome.counted for outcome in outcomes)


@pytest.mark.parametrize("attempt", [MAX_ATTEMPTS, MAX_ATTEMPTS + 1, 1000])
def test_after_enough_attempts_it_is_set_aside_with_the_last_error(attempt: int) -> None:
    outcome = decide(attempt, ExceptionGroup("in a nursery", [KeyError("total")]))
    assert outcome == Reject(f"failed {attempt} times, the last time with KeyError: 'total'")


@pytest.mark.promise("P1")
@pytest.mark.parametrize("attempt", [1, MAX_ATTEMPTS, 1000])
@pytest.mark.parametrize("alone", [True, False])
def test_an_unreachable_broker_is_never_held_against_the_message(attempt: int, alone: bool) -> None:
    error: Exception = BrokerUnavailable("rabbit could not be reached")
    if not alone:
        error = ExceptionGroup("in a nursery", [ValueError(), ExceptionGroup("inner", [error])])
    assert decide(attempt, error) == Release(after=PAUSE, counted=False)


def test_an_unknown_outcome_is_a_failure_like_any_other() -> None:
    assert decide(1, OutcomeUnknown("sent, not confirmed")) == Release(after=FIRST_DELAY)
    assert isinstance(decide(MAX_ATTEMPTS, OutcomeUnknown("sent, not confirmed")), Reject)
