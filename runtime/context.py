"""Which run the current task belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from .errors import NotServing

if TYPE_CHECKING:
    from .run import Run

#: Set while a run is served; its handlers and tasks inherit it.
active_run: ContextVar[Run | None] = ContextVar("active_run", default=None)


def current_run() -> Run:
    """The run that the calling handler or task belongs to; `current_run().stop("done")` drains it from inside.

    Raises `NotServing` outside of any.
    """
    run = active_run.get()
    if run is None:
        raise NotServing("this code runs outside of any run: current_run() is for handlers, tasks and lifespans")
    return run
