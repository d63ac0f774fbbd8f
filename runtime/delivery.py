"""The life of a delivery: one table, no I/O, no Trio.

A *delivery* is one attempt to get one message handled. The table below is all the state that matters about it. A step
that the table does not have raises `IllegalStep` and changes nothing; the README's diagram is drawn from the table
(`python -m runtime.delivery` prints it).
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum, auto
from typing import Any, Final

import msgspec

from .message import Message


class Ack(msgspec.Struct, frozen=True):
    """The message was handled: the broker may forget it."""


class Release(msgspec.Struct, frozen=True):
    """Not handled: let it be delivered again, not before `after` seconds from now.

    `counted` is whether the attempt counts. It does not when the message was not to blame: it was never started, or
    the handler could not reach another broker.
    """

    after: float = 0.0
    counted: bool = True


class Reject(msgspec.Struct, frozen=True):
    """Never to be handled: the broker sets it aside with the reason, where a person can find it."""

    reason: str


Outcome = Ack | Release | Reject
ACK: Final = Ack()


class State(Enum):
    RECEIVED = auto()
    HANDLING = auto()
    ACKING = auto()
    RELEASING = auto()
    REJECTING = auto()
    SETTLED = auto()
    LOST = auto()


class Step(Enum):
    HANDLE = auto()
    ACK = auto()
    RELEASE = auto()
    REJECT = auto()
    SETTLE = auto()
    LOSE = auto()


# Rows are states, columns the steps that are legal there. What is not here is illegal.
TABLE: Final[dict[State, dict[Step, State]]] = {
    State.RECEIVED: {
        Step.HANDLE: State.HANDLING,
        # Given back unread (a drain), or set aside unread (a body that does not decode is read by its handler's
        # endpoint, so it is HANDLING by then).
        Step.RELEASE: State.RELEASING,
        Step.LOSE: State.LOST,
    },
    State.HANDLING: {
        Step.ACK: State.ACKING,
        Step.RELEASE: State.RELEASING,
        Step.REJECT: State.REJECTING,
        Step.LOSE: State.LOST,
    },
    State.ACKING: {Step.SETTLE: State.SETTLED, Step.LOSE: State.LOST},
    State.RELEASING: {Step.SETTLE: State.SETTLED, Step.LOSE: State.LOST},
    State.REJECTING: {Step.SETTLE: State.SETTLED, Step.LOSE: State.LOST},
    State.SETTLED: {},
    # A lost delivery may be found lost again, by another road.
    State.LOST: {Step.LOSE: State.LOST},
}

STEP_OF: Final[dict[type[Outcome], Step]] = {Ack: Step.ACK, Release: Step.RELEASE, Reject: Step.REJECT}


class IllegalStep(RuntimeError):
    """A bug in the runtime: a delivery was asked to do what its state does not allow. It did not do it."""


class Delivery:
    """One attempt to get one message handled: the message, where it came from, and its state.

    `receipt` is the adapter's name for it, unique among the unsettled deliveries of one subscription. `source` is what
    the subscription was declared on; a session needs both to settle.
    """

    __slots__ = ("message", "receipt", "source", "state")

    def __init__(self, message: Message, receipt: Hashable, source: Any) -> None:
        self.message = message
        self.receipt = receipt
        self.source = source
        self.state = State.RECEIVED

    def step(self, step: Step) -> None:
        """Move to the next state, or raise `IllegalStep` and stay."""
        target = TABLE[self.state].get(step)
        if target is None:
            raise IllegalStep(f"{self!r}: {step.name} is not allowed in {self.state.name}")
        self.state = target

    def __repr__(self) -> str:
        return f"<Delivery {self.message.id} of {self.source} {self.state.name}>"


def diagram() -> str:
    """The table as a Mermaid state diagram: what the README shows."""
    lines = ["stateDiagram-v2", "    [*] --> RECEIVED"]
    for state, row in TABLE.items():
        lines += [f"    {state.name} --> {to.name}: {step.name.lower()}" for step, to in row.items() if to is not state]
    return "\n".join([*lines, "    SETTLED --> [*]", "    LOST --> [*]"])


if __name__ == "__main__":
    print(diagram())
