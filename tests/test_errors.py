"""Errors: their families, and the one line that a person gets to read."""

from __future__ import annotations

import pytest

import runtime
from runtime import (
    BrokerUnavailable,
    ConfigurationError,
    MessagingError,
    OutcomeUnknown,
    Refused,
    Rejected,
    SessionLost,
    Unroutable,
)
from runtime.errors import describe, leaves, root_cause, unexpected

LOST = SessionLost("the server closed the connection")
REFUSED = Refused("NOPERM")
BUG = KeyError("total")


def nested(*errors: Exception) -> Exception:
    """Each one group deeper than the one before."""
    first, *rest = errors
    return ExceptionGroup("group", [first, nested(*rest)] if rest else [first])


@pytest.mark.promise("P5")
def test_the_errors_of_a_publish_can_be_told_apart() -> None:
    assert not issubclass(BrokerUnavailable, OutcomeUnknown | Rejected)
    assert not issubclass(OutcomeUnknown, BrokerUnavailable | Rejected)
    assert issubclass(Unroutable, Rejected)
    assert not issubclass(Rejected, BrokerUnavailable | OutcomeUnknown)


def test_every_error_of_the_runtime_is_a_messaging_error() -> None:
    public = [value for value in vars(runtime).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(public) >= 9
    assert all(issubclass(error, MessagingError) for error in public)


def test_a_lost_session_may_have_sent_unless_it_says_otherwise() -> None:
    assert LOST.sent
    assert not SessionLost("no connection", sent=False).sent


def test_leaves_are_the_errors_inside_in_order() -> None:
    assert list(leaves(BUG)) == [BUG]
    assert list(leaves(nested(LOST, REFUSED, BUG))) == [LOST, REFUSED, BUG]


def test_the_root_cause_is_what_is_not_just_the_news_of_a_lost_session() -> None:
    assert root_cause(nested(LOST, LOST, BUG, REFUSED)) is BUG
    assert root_cause(nested(LOST, SessionLost("another"))) is LOST
    assert root_cause(LOST) is LOST


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (REFUSED, "NOPERM"),
        (nested(LOST, REFUSED), "NOPERM"),
        (LOST, "the server closed the connection"),
        (BUG, "KeyError: 'total'"),
        (ValueError(), "ValueError"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (OSError("all attempts to connect failed"), "OSError: all attempts to connect failed"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (ValueError("no file \udc80"), "ValueError: no file \\udc80"),
    ],
    ids=repr,
)
def test_an_error_is_described_in_one_line(error: Exception, line: str) -> None:
    assert describe(error) == line


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (BUG, BUG),
        (nested(LOST, BUG), BUG),
        (nested(LOST, REFUSED, ConnectionResetError()), None),
        (ConfigurationError("wrong"), None),
    ],
    ids=repr,
)
def test_only_what_no_adapter_meant_to_raise_is_unexpected(error: Exception, found: Exception | None) -> None:
    assert unexpected(error) is found
