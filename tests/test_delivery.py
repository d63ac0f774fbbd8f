"""The table of a delivery's life: what it allows, what it refuses, and the picture that is drawn from it."""

from __future__ import annotations

import re
import typing

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from runtime import Message
from runtime.delivery import STEP_OF, TABLE, Ack, Delivery, IllegalStep, Outcome, State, Step, diagram

SETTLEMENTS = {Step.ACK, Step.RELEASE, Step.REJECT}

walks = given(st.lists(st.sampled_from(Step), max_size=12))
checked = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_delivery(state: State = State.RECEIVED) -> Delivery:
    delivery = Delivery(Message(body=b"{}", id="m1", destination="orders"), 1, "orders")
    delivery.state = state
    return delivery


def walk(steps: list[Step]) -> tuple[list[Step], list[State]]:
    """Take every step that is allowed; the steps taken and the states passed through."""
    delivery = a_delivery()
    taken, states = [], [delivery.state]
    for step in steps:
        before = delivery.state
        try:
            delivery.step(step)
        except IllegalStep:
            assert delivery.state is before
        else:
            taken.append(step)
            states.append(delivery.state)
    return taken, states


LEGAL = {
    ("RECEIVED", "HANDLE"): "HANDLING",
    ("RECEIVED", "RELEASE"): "RELEASING",
    ("RECEIVED", "LOSE"): "LOST",
    ("HANDLING", "ACK"): "ACKING",
    ("HANDLING", "RELEASE"): "RELEASING",
    ("HANDLING", "REJECT"): "REJECTING",
    ("HANDLING", "LOSE"): "LOST",
    ("ACKING", "SETTLE"): "SETTLED",
    ("ACKING", "LOSE"): "LOST",
    ("RELEASING", "SETTLE"): "SETTLED",
    ("RELEASING", "LOSE"): "LOST",
    ("REJECTING", "SETTLE"): "SETTLED",
    ("REJECTING", "LOSE"): "LOST",
    ("LOST", "LOSE"): "LOST",
}


@pytest.mark.parametrize("state", State)
def test_a_step_is_as_planned_and_any_other_raises_and_changes_nothing(state: State) -> None:
    for step in Step:
        delivery = a_delivery(state)
        message = delivery.message
        planned = LEGAL.get((state.name, step.name))
        if planned is not None:
            delivery.step(step)
            assert delivery.state.name == planned
        else:
            with pytest.raises(IllegalStep, match=f"{step.name} is not allowed in {state.name}"):
                delivery.step(step)
            assert (delivery.state, delivery.message, delivery.receipt) == (state, message, 1)


@pytest.mark.promise("P6")
@checked
@walks
def test_on_no_road_is_a_delivery_settled_twice(steps: list[Step]) -> None:
    taken, states = walk(steps)
    assert sum(step in SETTLEMENTS for step in taken) <= 1
    assert states.count(State.SETTLED) <= 1


@pytest.mark.promise("P6")
@checked
@walks
def test_on_no_road_is_a_delivery_acknowledged_that_was_not_handled(steps: list[Step]) -> None:
    taken, _ = walk(steps)
    for step in (Step.ACK, Step.REJECT):
        assert step not in taken or Step.HANDLE in taken[: taken.index(step)]


@checked
@walks
def test_the_end_is_the_end(steps: list[Step]) -> None:
    _, states = walk(steps)
    for end in (State.SETTLED, State.LOST):
        if end in states:
            assert set(states[states.index(end) :]) == {end}


def test_every_state_has_a_row_and_every_live_one_can_be_lost() -> None:
    assert list(TABLE) == list(State)
    assert all(Step.LOSE in row for state, row in TABLE.items() if state is not State.SETTLED)


def test_every_outcome_has_its_step() -> None:
    assert set(STEP_OF) == set(typing.get_args(Outcome))
    assert set(STEP_OF.values()) == SETTLEMENTS
    assert STEP_OF[Ack] is Step.ACK


def test_the_diagram_has_every_edge_of_the_table_once() -> None:
    edges = re.findall(r"^    (\w+) --> (\w+): (\w+)$", diagram(), re.MULTILINE)
    assert len(edges) == len(set(edges))
    # A lost delivery that is found lost again stays where it is: no edge.
    assert {(a, step.upper()): b for a, b, step in edges} == {k: v for k, v in LEGAL.items() if k != ("LOST", "LOSE")}


def test_the_diagram_begins_and_ends() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> RECEIVED"]
    assert lines[-2:] == ["    SETTLED --> [*]", "    LOST --> [*]"]


def test_a_delivery_says_which_it_is() -> None:
    assert repr(a_delivery(State.ACKING)) == "<Delivery m1 of orders ACKING>"
