"""Waiting for what has no event: a status, a server's own view."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def until(
    condition: Callable[[], object], *, within: float = 10, why: Callable[[], object] | None = None
) -> None:
    """Look again and again until `condition()` holds; fail after `within` seconds, saying `why()`."""
    with trio.move_on_after(within):
        while not condition():  # noqa: ASYNC110 - a status has no event to wait for
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {within} s{'' if why is None else f': {why()}'}")


async def until_told(question: Callable[[], Awaitable[object]], *, within: float = 10) -> None:
    """The same for something that has to be asked of another: until the answer is true."""
    answer: object = None
    with trio.move_on_after(within):
        while not (answer := await question()):  # noqa: ASYNC110 - nor has this one
            await trio.sleep(0.02)
        return
    raise AssertionError(f"not within {within} s: the last answer was {answer!r}")


async def told(answer: Awaitable[T] | T) -> T:
    """What a server said: some are asked by a call, others have to be awaited."""
    return await answer if inspect.isawaitable(answer) else answer
