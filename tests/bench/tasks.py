"""The tasks of a run, and the death of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import trio


class Boom(Exception):
    """What no adapter and no user raises."""


def kill(task: trio.lowlevel.Task) -> None:
    """Make what `task` waits for raise `Boom`, as an unforeseen bug would."""

    def boom() -> NoReturn:
        raise Boom

    # The road by which Trio itself delivers a Cancelled or a KeyboardInterrupt; it has no public name.
    task._attempt_abort(boom)


def tasks_of_serve() -> Iterator[trio.lowlevel.Task]:
    """The one task that runs `Runtime.serve`, and all that it has started."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    (serve,) = (task for task in _under(root) if task.name.endswith("Runtime.serve"))
    return _under(serve)


def _under(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _under(child)
