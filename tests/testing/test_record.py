"""The record: what it says of a run, and the broken promises that it notices."""

from __future__ import annotations

import pytest

from runtime import Message
from runtime.delivery import ACK, Delivery, Outcome, Reject, Release
from runtime.testing.record import SHOWN, Record, SetAside


class Story:
    """A record with a clock that the test turns, and one delivery."""

    def __init__(self) -> None:
        self.now = 0.0
        self.record = Record(lambda: self.now)
        self.delivery = Delivery(Message(body=b"1", id="m1", destination="orders", attempt=2), 1, "orders")

    def begin(self) -> None:
        self.record.call_began("bill", handler, int, self.delivery)

    def end(self, *, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        self.record.call_ended(self.delivery, error=error, outcome=outcome)

    def settle(self, outcome: Outcome) -> None:
        self.record.settled("redis", self.delivery, outcome, 0.0)


async def handler(body: int) -> None: ...


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_call_knows_what_it_was_given_and_what_it_came_to(story: Story) -> None:
    quiet = [story.record.is_quiet]
    story.begin()
    quiet.append(story.record.is_quiet)
    (call,) = story.record.calls
    assert (call.handler, call.function, call.body, call.started) == ("bill", handler, 1, 0)
    assert (call.ended, call.returned) == (None, False)
    story.now = 2
    story.end(outcome=ACK)
    quiet.append(story.record.is_quiet)
    assert quiet == [True, False, True]
    assert (call.ended, call.returned) == (2, True)
    assert story.record.returned == [call]


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("no"), None), (None, Reject("no")), (KeyboardInterrupt(), None)]
)
def test_a_call_that_raised_or_was_never_made_has_not_returned(
    story: Story, error: BaseException | None, outcome: Outcome | None
) -> None:
    story.begin()
    story.end(error=error, outcome=outcome)
    assert (story.record.calls[0].returned, story.record.returned) == (False, [])


def test_errors_are_kept_and_cancels_are_not(story: Story) -> None:
    failure, groups = ValueError("no"), BaseExceptionGroup("both", [TypeError("yes"), KeyboardInterrupt()])
    for error in (failure, KeyboardInterrupt(), groups):
        story.begin()
        story.end(error=error)
    first, second = story.record.errors
    assert first is failure
    assert isinstance(second, ExceptionGroup)
    assert [repr(leaf) for leaf in second.exceptions] == ["TypeError('yes')"]


def test_what_was_set_aside_unread_is_an_error_and_what_has_failed_is_one_already(story: Story) -> None:
    story.begin()
    story.end(outcome=Reject("does not decode"))
    story.settle(Reject("does not decode"))
    (error,) = story.record.errors
    assert isinstance(error, SetAside)
    assert str(error) == "message m1 was set aside: does not decode"
    again = Story()
    again.begin()
    again.end(error=ValueError("no"))
    again.settle(Reject("failed 5 times"))
    assert [repr(error) for error in again.record.errors] == ["ValueError('no')"]


@pytest.mark.parametrize("outcome", [ACK, Release(), Reject("no")])
def test_a_settlement_while_the_handler_runs_is_a_broken_promise(story: Story, outcome: Outcome) -> None:
    story.begin()
    story.settle(outcome)
    assert story.record.violations == ["message m1 was settled while its handler ran"]
    assert "PROMISE BROKEN: message m1 was settled while its handler ran" in story.record.timeline()


@pytest.mark.parametrize("called", [False, True])
def test_an_acknowledgement_without_a_return_is_a_broken_promise(story: Story, called: bool) -> None:
    if called:
        story.begin()
        story.end(error=ValueError("no"))
    story.settle(ACK)
    assert story.record.violations == ["message m1 was acknowledged although its handler did not return"]


def test_an_acknowledgement_after_the_return_and_a_release_at_any_time_are_as_promised(story: Story) -> None:
    story.begin()
    story.end(outcome=ACK)
    story.settle(ACK)
    unread = Story()
    unread.settle(Release(counted=False))
    assert story.record.violations == unread.record.violations == []


def test_a_settlement_has_its_attempt_and_its_times(story: Story) -> None:
    story.now = 3
    story.settle(Release())
    (settled,) = story.record.settlements
    assert (settled.broker, settled.source, settled.message.id, settled.attempt) == ("redis", "orders", "m1", 2)
    assert (settled.delivered, settled.settled, settled.outcome) == (0, 3, Release())


def test_the_timeline_has_a_line_for_each_event(story: Story) -> None:
    story.record.opened("redis", "orders")
    story.record.published("test", story.delivery.message, "orders, audit")
    story.now = 1.5
    story.record.delivered("redis", story.delivery)
    story.begin()
    story.end(error=ValueError("no"))
    story.settle(Release(after=0.4))
    story.settle(Release())
    story.settle(Reject("bad"))
    story.now = 86400
    story.record.note("redis", "thawed")
    assert story.record.timeline() == (
        "     0.000  redis: orders opened\n"
        "     0.000  test: message m1 → orders, audit\n"
        "     1.500  redis: message m1 delivered from orders\n"
        "     1.500  bill: message m1 attempt 2\n"
        "     1.500  bill: message m1 raised ValueError: no\n"
        "     1.500  redis: message m1 released for 0.4 s\n"
        "     1.500  redis: message m1 released\n"
        "     1.500  redis: message m1 rejected: bad\n"
        " 86400.000  redis: thawed"
    )


def test_of_a_long_timeline_the_end_is_printed(story: Story) -> None:
    for number in range(SHOWN + 5):
        story.record.note("test", f"event {number}")
    lines = story.record.timeline().splitlines()
    assert lines[0] == "... 5 earlier events"
    assert lines[1].endswith("event 5")
    assert lines[-1].endswith(f"event {SHOWN + 4}")
    assert len(lines) == SHOWN + 1
