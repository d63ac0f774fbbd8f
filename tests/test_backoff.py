"""How long to wait before the next attempt."""

from __future__ import annotations

import socket

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from runtime import Backoff, ConfigurationError, Refused, SessionLost
from runtime.backoff import is_hopeless

checked = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
attempts = st.integers(1, 10**6)
jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("attempt", "most"), [(1, 0.1), (2, 0.2), (3, 0.4), (5, 1.6), (6, 3.2), (7, 4.0)])
def test_the_wait_doubles_up_to_the_cap(attempt: int, most: float) -> None:
    assert Backoff().delay(attempt, 0.0) == pytest.approx(most / 2)
    assert Backoff().delay(attempt, 0.999999) == pytest.approx(most, rel=1e-5)


@pytest.mark.promise("P8")
@checked
@given(attempts, jitters)
def test_no_wait_is_a_hot_loop_or_longer_than_the_cap(attempt: int, jitter: float) -> None:
    backoff = Backoff()
    assert backoff.first / 2 <= backoff.delay(attempt, jitter) <= backoff.cap


@pytest.mark.promise("P8")
@checked
@given(attempts, jitters)
def test_a_hopeless_error_waits_at_least_the_floor(attempt: int, jitter: float) -> None:
    backoff = Backoff()
    assert backoff.delay(attempt, jitter, hopeless=True) == max(1.0, backoff.delay(attempt, jitter))


@checked
@given(attempts, jitters, jitters)
def test_more_jitter_is_never_a_shorter_wait(attempt: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert Backoff().delay(attempt, low) <= Backoff().delay(attempt, high)


def test_only_an_attempt_that_held_long_enough_starts_the_count_afresh() -> None:
    backoff = Backoff(stable=5)
    assert backoff.next_attempt(0, 0.0) == 1
    assert backoff.next_attempt(7, 4.9) == 8
    assert backoff.next_attempt(7, 5.0) == 1


@pytest.mark.parametrize(
    "error",
    [
        Refused("WRONGPASS"),
        ConfigurationError("no such thing"),
        ValueError("a bug"),
        ExceptionGroup("both", [SessionLost("gone"), Refused("NOPERM")]),
        ExceptionGroup("deep", [ExceptionGroup("deeper", [KeyError("a bug")])]),
    ],
    ids=repr,
)
def test_what_trying_again_cannot_mend_is_hopeless(error: Exception) -> None:
    assert is_hopeless(error)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        socket.gaierror(-3, "Temporary failure in name resolution"),
        SessionLost("the server closed the connection"),
        ExceptionGroup("both", [SessionLost("gone"), BrokenPipeError()]),
    ],
    ids=repr,
)
def test_what_the_network_does_is_not_hopeless(error: Exception) -> None:
    assert not is_hopeless(error)
