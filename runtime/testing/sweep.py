"""The cancellation sweep: a scenario cancelled at every point where it can be, one run for each."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

import trio

from runtime.errors import describe

from .scheduler import seeded
from .world import World, opened

Scenario = Callable[[], Awaitable[object]]
Check = Callable[[World], object]

#: Seconds, on the virtual clock, that a cancelled scenario may take to end: the tear-down's own bounds, and some room.
TEARDOWN_LIMIT = 3.0


@dataclass(frozen=True, slots=True)
class Violation:
    """One run in which something did not hold."""

    seed: int
    #: Cancelled at this point; None if it was not.
    point: int | None
    problems: tuple[str, ...]
    timeline: str


@dataclass(slots=True)
class Report:
    """What a sweep came to."""

    scenario: str
    seeds: tuple[int, ...]
    #: How many runs were cancelled.
    points: int = 0
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        total = f"{self.scenario}: {self.points} points, {len(self.violations)} violations"
        if not self.violations:
            return total
        # The shortest story tells it best.
        first = min(self.violations, key=lambda violation: len(violation.timeline))
        again = f"sweep({self.scenario}, ..., seeds=[{first.seed}], points=[{first.point}])"
        problems = "\n".join(f"  - {problem}" for problem in first.problems)
        return f"{total}\nThe shortest, again with {again}:\n{problems}\n{first.timeline}"


class SweepFailed(AssertionError):
    """At some point of the sweep something did not hold; `report` has all of it."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


def sweep(
    scenario: Scenario,
    check: Check | None = None,
    *,
    seeds: Iterable[int] = (0, 1, 2),
    points: Iterable[int | None] | None = None,
) -> Report:
    """Run `scenario` once to its end and then once for each point at which it can be cancelled, with each seed.

    A point is one step of any task, so the cancel comes between every two steps that the scenario consists of. Every run
    has its own Trio, its own virtual clock and the scheduling that its seed decides, so a point means the same each time.
    After each run these must hold, besides `check`: no task is left; the end came within 3 virtual seconds; every message
    that was delivered was settled, or lost with its session, and none twice, before its handler had returned, or without
    one; nothing but the cancel was raised.

    Not async: it owns its runs of Trio, so call it from an ordinary test function.

    Args:
      scenario: an async function without parameters that makes its application, opens it with `open_test` and uses it.
      check: called after each run with each world that the scenario opened; raises or asserts what must hold.
      points: only these, to look at one again; None among them is the run without a cancel.

    Returns the report, "n points, 0 violations". Raises `SweepFailed` with the shortest way to reproduce it.
    """
    name = getattr(scenario, "__qualname__", repr(scenario))
    if not inspect.iscoroutinefunction(scenario):
        raise TypeError(f"scenario {name} must be an async function without parameters")
    report = Report(name, tuple(seeds))
    for seed in report.seeds:
        for point in _counted() if points is None else points:
            run = _Run(seed, point)
            run.go(scenario, check)
            if point is not None and not run.reached:
                break
            report.points += point is not None
            if run.problems:
                timeline = "\n".join(world.timeline() for world in run.worlds)
                report.violations.append(Violation(seed, point, tuple(run.problems), timeline))
    if report.violations:
        raise SweepFailed(report)
    return report


def _counted() -> Iterator[int | None]:
    yield None
    point = 0
    while True:
        point += 1
        yield point


class _Run(trio.abc.Instrument):
    """One run of the scenario. As an instrument it counts the steps of all tasks, and cancels at its own."""

    def __init__(self, seed: int, point: int | None) -> None:
        self.problems: list[str] = []
        self.worlds: list[World] = []
        self.reached = False
        self._seed = seed
        self._point = point
        self._steps = 0
        self._trios_own: set[trio.lowlevel.Task] = set()
        self._scope: trio.CancelScope | None = None
        self._cancelled_at = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._scope is None or task in self._trios_own:
            return
        self._steps += 1
        if self._steps == self._point:
            self.reached = True
            self._cancelled_at = trio.current_time()
            self._scope.cancel()

    def go(self, scenario: Scenario, check: Check | None) -> None:
        from trio.testing import MockClock  # not on top: it imports pytest where there is one

        opened.set(self.worlds)
        try:
            with seeded(self._seed):
                trio.run(self._main, scenario, clock=MockClock(autojump_threshold=0), instruments=[self])
        finally:
            opened.set(None)
        if self._point is not None and not self.reached:
            return  # the scenario was over before its point, so this run says nothing new
        for world in self.worlds:
            self.problems += [problem for problem in world.record.violations if problem not in self.problems]
            if check is not None:
                try:
                    check(world)
                except Exception as error:
                    self.problems.append(f"check: {describe(error)}")

    async def _main(self, scenario: Scenario) -> None:
        before = _tasks()
        self._trios_own = before - {trio.lowlevel.current_task()}
        try:
            with trio.CancelScope() as scope:
                self._scope = scope
                await scenario()
        except Exception as error:
            self.problems.append(f"raised {describe(error)}")
        finally:
            self._scope = None
        if self.reached and (took := trio.current_time() - self._cancelled_at) > TEARDOWN_LIMIT:
            self.problems.append(f"took {took:g} s to end after the cancel")
        if left := _tasks() - before:
            self.problems.append(f"left {', '.join(sorted(task.name for task in left))}")


def _tasks() -> set[trio.lowlevel.Task]:
    """Every task of this run of Trio."""
    root = trio.lowlevel.current_root_task()
    found: set[trio.lowlevel.Task] = set()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        found.add(task)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found
