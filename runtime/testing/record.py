"""What happened in a world: calls, settlements, a timeline, and the promises that were broken on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from runtime.delivery import Ack, Delivery, Outcome, Reject, Release
from runtime.errors import MessagingError, describe
from runtime.handler import Function
from runtime.message import Message

#: How much of a long timeline is printed: its end, because that is where the failure is.
SHOWN = 200


@dataclass(slots=True, eq=False)
class Call:
    """One attempt of a handler. Times are seconds since the world began."""

    handler: str
    function: Function
    message: Message
    started: float
    #: What the handler's bodies are decoded with.
    decode: Callable[[bytes], Any]
    #: None while it runs.
    ended: float | None = None
    #: What it raised, a cancel included.
    error: BaseException | None = None
    #: What it came to if it raised nothing: `Reject` if the body did not decode.
    outcome: Outcome | None = None

    @property
    def body(self) -> Any:
        """The body, decoded afresh: what the handler was given, whatever it did to its own. Raises what decoding raises."""
        return self.decode(self.message.body)

    @property
    def returned(self) -> bool:
        """Whether the handler was called and returned."""
        return isinstance(self.outcome, Ack)


@dataclass(frozen=True, slots=True)
class Settled:
    """One settlement, as the broker saw it. Times are seconds since the world began."""

    broker: str
    source: str
    message: Message
    outcome: Outcome
    #: When the broker handed the message out, and when it was told.
    delivered: float
    settled: float

    @property
    def attempt(self) -> int:
        return self.message.attempt


class SetAside(MessagingError):
    """A message was rejected without any call of its handler: its body did not decode, most likely."""


class PromiseBroken(AssertionError):
    """The runtime, or the adapter's rule that the world follows, broke a promise. Never the fault of the test."""


class Record:
    """The world's memory. Cheap to write, formatted only when somebody reads it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.calls: list[Call] = []
        #: Those whose handler returned, in the order in which they did.
        self.returned: list[Call] = []
        self.settlements: list[Settled] = []
        #: What handlers raised and `settled()` has not reported yet.
        self.errors: list[Exception] = []
        self.violations: list[str] = []
        #: Whoever waits for progress, waits here: something was opened, called, settled, or has changed on a line.
        self.changed = trio.lowlevel.ParkingLot()
        self._running: dict[Delivery, Call] = {}
        self._last: dict[Delivery, Call] = {}
        self._events: list[tuple[float, str, Callable[[], str]]] = []

    @property
    def is_quiet(self) -> bool:
        """Whether no handler runs."""
        return not self._running

    def note(self, where: str, what: str) -> None:
        self._events.append((self.now(), where, lambda: what))

    def opened(self, where: str, source: object) -> None:
        self._events.append((self.now(), where, lambda: f"{source} opened"))
        self.changed.unpark_all()

    def published(self, where: str, message: Message, logs: object) -> None:
        self._events.append((self.now(), where, lambda: f"{_name(message)} → {logs}"))

    def delivered(self, where: str, delivery: Delivery) -> None:
        self._events.append((self.now(), where, lambda: f"{_name(delivery.message)} delivered from {delivery.source}"))

    def call_began(self, handler: str, function: Function, decode: Callable[[bytes], Any], delivery: Delivery) -> Call:
        call = Call(handler, function, delivery.message, self.now(), decode)
        self.calls.append(call)
        self._running[delivery] = self._last[delivery] = call
        self._events.append((call.started, handler, lambda: f"{_name(call.message)} attempt {call.message.attempt}"))
        return call

    def call_ended(
        self, delivery: Delivery, *, error: BaseException | None = None, outcome: Outcome | None = None
    ) -> None:
        call = self._running.pop(delivery)
        call.ended, call.error, call.outcome = self.now(), error, outcome
        # A handler with a nursery may raise errors and a cancel in one group; the errors are news, the cancel is not.
        failure = error.subgroup(Exception) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(failure, Exception):
            self.errors.append(failure)
        if call.returned:
            self.returned.append(call)
        self._events.append((call.ended, call.handler, lambda: f"{_name(call.message)} {_end(call)}"))
        self.changed.unpark_all()

    def settled(self, where: str, delivery: Delivery, outcome: Outcome, delivered: float) -> None:
        """The broker was told. This is where a promise about settlement would be seen to break."""
        now, message = self.now(), delivery.message
        self.settlements.append(Settled(where, str(delivery.source), message, outcome, delivered, now))
        self._events.append((now, where, lambda: f"{_name(message)} {_outcome(outcome)}"))
        call = self._last.get(delivery)
        if delivery in self._running:
            self.broke(f"{_name(message)} was settled while its handler ran")
        elif isinstance(outcome, Ack) and (call is None or not call.returned):
            self.broke(f"{_name(message)} was acknowledged although its handler did not return")
        elif isinstance(outcome, Reject) and (call is None or call.error is None):
            self.errors.append(SetAside(f"{_name(message)} was set aside: {outcome.reason}"))
        self.changed.unpark_all()

    def broke(self, what: str) -> None:
        self.violations.append(what)
        self.note("PROMISE BROKEN", what)

    def timeline(self) -> str:
        """What happened, one line an event, oldest first."""
        lines = [f"{time:10.3f}  {where}: {what()}" for time, where, what in self._events[-SHOWN:]]
        left_out = len(self._events) - len(lines)
        return "\n".join(([f"... {left_out} earlier events"] if left_out else []) + lines)


def _name(message: Message) -> str:
    return f"message {message.id}"


def _end(call: Call) -> str:
    if isinstance(call.error, trio.Cancelled):
        return "was cancelled"  # its own words have addresses in them, which no replay repeats
    if call.error is not None:
        return f"raised {describe(call.error)}"
    return "returned" if call.outcome is None or call.returned else _outcome(call.outcome)


def _outcome(outcome: Outcome) -> str:
    match outcome:
        case Ack():
            return "acknowledged"
        case Release(after):
            return f"released for {after:g} s" if after else "released"
        case Reject(reason):
            return f"rejected: {reason}"
