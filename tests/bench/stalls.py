"""How long the Trio loop did nothing but one thing: a blocking call on its thread holds up everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

#: Seconds between two looks at the clock.
TICK = 0.01


class Stalls:
    """Seconds beyond `TICK` that the loop took to come round, at the longest."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(TICK)
            self.longest = max(self.longest, trio.current_time() - began - TICK)


@asynccontextmanager
async def watched_loop() -> AsyncIterator[Stalls]:
    """Watch the loop for the length of the block."""
    stalls = Stalls()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls.watch)
        yield stalls
        nursery.cancel_scope.cancel()
