"""The intake: everything that brings work into a run. Closing it is the first act of a drain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Intake:
    """One cancel scope for many tasks: pollers, and the tasks that users declared.

    They live in different nurseries, so no single nursery's scope could stop them all; each enters a scope of its own
    here, and `close()` cancels every one, present and future.
    """

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._closing = trio.Event()
        self._closed = trio.Event()

    @contextmanager
    def scope(self) -> Iterator[trio.CancelScope]:
        """Run the body until `close()`; entered after it, the body is cancelled at its first checkpoint."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._closing.is_set():
                scope.cancel()
            try:
                yield scope
            finally:
                self._scopes.remove(scope)
                self._check()

    def close(self) -> None:
        """Cancel everything inside. Idempotent, never blocks."""
        self._closing.set()
        for scope in self._scopes:
            scope.cancel()
        self._check()

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    async def closing(self) -> None:
        """Wait until `close()` was called."""
        await self._closing.wait()

    async def closed(self) -> None:
        """Wait until `close()` was called and nothing is inside any more."""
        await self._closed.wait()

    def _check(self) -> None:
        if self._closing.is_set() and not self._scopes:
            self._closed.set()
