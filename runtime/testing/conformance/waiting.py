"""Waiting for what has no event: a status, a server's own view."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio

T = TypeVar("T")

#: Seconds that closing a source or a session may take: half a second by the contract, and as much again for a machine
#: that is busy with other things.
CLOSE_LIMIT = 1.0

#: Seconds without any task doing anything, after which a call that was started waits on the broker for sure: between the
#: question and the answer of some I/O all tasks are blocked too, but not for so long.
QUIET = 0.05


async def until(condition: Callable[[], object], within: float, why: Callable[[], object]) -> None:
    """Look again and again until `condition()` holds; fail after `within` seconds, saying `why()`."""
    with trio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - a status has no event to wait for
            await trio.sleep(min(0.01, within / 10))
        return
    raise AssertionError(f"not within {within:g} s: {why()}")


@asynccontextmanager
async def bounded(opening: AbstractAsyncContextManager[T], what: str, patience: float) -> AsyncIterator[T]:
    """`opening`, which must open within `patience` seconds, and close within `CLOSE_LIMIT`, also when it is cut off."""
    closing = 0.0
    with trio.CancelScope(deadline=trio.current_time() + patience) as scope:
        try:
            async with opening as opened:
                scope.deadline = float("inf")
                try:
                    yield opened
                finally:
                    closing = trio.current_time()
                    scope.deadline = closing + patience
        finally:
            took = trio.current_time() - closing if closing else 0.0
            assert took <= CLOSE_LIMIT, f"closing {what} took {took:.2f} s; half a second is the limit"
    assert not scope.cancelled_caught, f"{what} did not {'close' if closing else 'open'} within {patience:g} s"
