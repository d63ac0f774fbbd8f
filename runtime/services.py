"""Services: tasks that outlive what uses them.

A connection's reader must still read while the code above it, already cancelled, says good-bye to the server. A
settlement task must still send acks while the handlers, already cancelled, give back their messages. So a cancel must
reach the users first and the services after, and that order is the nesting of the blocks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio


class Services:
    """The services of one block. Made by `open_services`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: list[trio.CancelScope] = []

    def start_soon(self, service: Callable[..., Awaitable[object]], *args: Any, name: str) -> None:
        """Start a task that a cancel from outside the block does not reach; leaving the block cancels it.

        The scope is made here and not in the task, so that a block left before the task first runs still ends it: the
        task then meets its cancel at its first checkpoint.
        """
        # No deadline needed here: the shield falls when the block is left, and every block that opens services bounds
        # the time that it takes to be left.
        scope = trio.CancelScope(shield=True)
        self._scopes.append(scope)
        self._nursery.start_soon(_run, scope, service, args, name=name)

    def cancel(self) -> None:
        for scope in self._scopes:
            scope.cancel()


async def _run(scope: trio.CancelScope, service: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
    with scope:
        await service(*args)


@asynccontextmanager
async def open_services() -> AsyncIterator[Services]:
    """A nursery whose tasks are cancelled when the block is left, by whatever road, and not before.

    A service that raises cancels the block and the other services, like any task in a nursery.
    """
    async with trio.open_nursery() as nursery:
        services = Services(nursery)
        # A crashed service cancels the nursery, which shielded siblings do not hear; the `finally` tells them, once
        # the block's body has left.
        try:
            yield services
        finally:
            services.cancel()
