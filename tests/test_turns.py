"""Whose turn it is, whatever the order of arrivals and departures."""

from __future__ import annotations

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.turns import Turns

Ticket = tuple[int, str | None]


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Arrivals and departures at will, perhaps a close at the end; the claims are the invariants and the `teardown`."""

    turns: Turns[Ticket]

    @initialize(concurrency=st.integers(1, 4), ends_in_close=st.booleans())
    def open(self, concurrency: int, ends_in_close: bool) -> None:
        self.ends_in_close = ends_in_close
        self.turns = Turns(concurrency)
        self.arrived: list[Ticket] = []
        self.granted: list[Ticket] = []
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []

    @rule(key=st.sampled_from([None, "a", "b", "c"]))
    def arrive(self, key: str | None) -> None:
        ticket = (len(self.arrived), key)
        self.arrived.append(ticket)
        self.waiting.append(ticket)
        if self.turns.arrive(ticket, key):
            self._grant(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._leave(data.draw(st.sampled_from(self.running)))

    @invariant()
    def at_most_concurrency_run(self) -> None:
        assert self.turns.running == len(self.running) <= self.turns.concurrency

    @invariant()
    def of_one_key_at_most_one_runs(self) -> None:
        keys = [key for _, key in self.running if key is not None]
        assert len(keys) == len(set(keys))

    @invariant()
    def of_one_key_all_run_in_order_of_arrival(self) -> None:
        for key in ("a", "b", "c"):
            lane = [ticket for ticket in self.granted if ticket[1] == key]
            assert lane == [ticket for ticket in self.arrived if ticket[1] == key][: len(lane)]

    @invariant()
    def those_without_a_key_run_in_order_of_arrival(self) -> None:
        keyless = [ticket for ticket in self.granted if ticket[1] is None]
        assert keyless == sorted(keyless)

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        busy = {key for _, key in self.running} - {None}
        could = [ticket for ticket in self.waiting if ticket[1] not in busy]
        assert not could or len(self.running) == self.turns.concurrency

    def teardown(self) -> None:
        """Nobody is forgotten: when everyone who runs leaves, all the rest get their turn, or were given back."""
        if self.ends_in_close:
            self._close()
        while self.running:
            self._leave(self.running[0])
        assert self.waiting == []

    def _close(self) -> None:
        given_back = self.turns.close()
        assert sorted(given_back, key=lambda ticket: ticket[0]) == self.waiting
        for key in ("a", "b", "c"):
            lane = [ticket for ticket in given_back if ticket[1] == key]
            assert lane == sorted(lane)
        # Whoever gets a turn from now on is not found among those who wait.
        self.waiting.clear()

    def _leave(self, ticket: Ticket) -> None:
        self.running.remove(ticket)
        successor = self.turns.leave(ticket[1])
        if successor is not None:
            self._grant(successor)

    def _grant(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        self.granted.append(ticket)
        self.running.append(ticket)


AnyOrderOfEvents.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase


def test_a_busy_key_does_not_hold_up_another() -> None:
    turns: Turns[str] = Turns(2)
    assert turns.arrive("a1", "a")
    assert not turns.arrive("a2", "a")
    assert turns.arrive("b1", "b")


def test_a_busy_key_goes_to_the_back_of_those_who_wait_for_room() -> None:
    turns: Turns[str] = Turns(1)
    assert [turns.arrive(ticket, ticket[0]) for ticket in ("a1", "a2", "a3", "b1")] == [True, False, False, False]
    assert [turns.leave("a"), turns.leave("b"), turns.leave("a"), turns.leave("a")] == ["b1", "a2", "a3", None]


def test_a_key_that_nobody_uses_costs_nothing() -> None:
    turns: Turns[int] = Turns(1)
    for number in range(1000):
        assert turns.arrive(number, f"key {number}")
        assert turns.leave(f"key {number}") is None
    assert turns._lanes == {}
