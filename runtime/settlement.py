"""Settlement: the service that acks, releases and rejects, in batches, and outlives the handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from .adapter import Features, Settlement
from .batch_queue import BatchQueue
from .delivery import STEP_OF, Delivery, Outcome, State, Step
from .errors import SessionLost
from .link import Link

logger = logging.getLogger("runtime.settlement")

#: More than this in one crossing buys nothing, and one slow batch would hold up the next.
MAX_BATCH = 512


class Settler:
    """One broker's settlements.

    `put` is synchronous: a handler that ends, even by a cancel, always hands over its outcome. `run` sends. A session
    that is lost on the way decides by `Features.lease`: sent again on the next session, or lost.
    """

    def __init__(self, name: str, features: Features, link: Link) -> None:
        self._name = name
        self._features = features
        self._link = link
        self._queue: BatchQueue[_Item] = BatchQueue()

    def __len__(self) -> int:
        """How many outcomes are not settled yet."""
        return len(self._queue)

    def put(self, delivery: Delivery, outcome: Outcome, done: Callable[[Delivery, Outcome], None]) -> None:
        """Settle `delivery`, then call `done`. For one that is lost already only `done` is called."""
        if delivery.state is State.LOST:
            done(delivery, outcome)
        else:
            delivery.step(STEP_OF[type(outcome)])
            self._queue.put(_Item(delivery, outcome, done))

    async def run(self) -> None:
        while True:
            await self._queue.wait()
            # The handlers that end in this same tick: their acks go along.
            await trio.lowlevel.checkpoint()
            session = await self._link.session()
            batch = self._queue.take(MAX_BATCH)
            live = [item for item in batch if item.delivery.state is not State.LOST]
            try:
                results = await session.settle([Settlement(x.delivery, x.outcome) for x in live]) if live else []
            except SessionLost as loss:
                self._link.lost(session, loss)
                if self._features.lease == "broker":
                    # Safe to repeat by the contract, and better than handling the messages twice.
                    self._queue.put_back(batch)
                else:
                    for item in batch:
                        item.delivery.step(Step.LOSE)
                        item.done(item.delivery, item.outcome)
            else:
                self._finish(batch, live, results)
            self._queue.done(len(batch))

    def _finish(self, batch: list[_Item], live: list[_Item], results: Sequence[Exception | None]) -> None:
        for item, error in zip(live, results, strict=True):
            if item.delivery.state is State.LOST:
                pass  # its lease went while its settlement was on the way
            elif error is None:
                item.delivery.step(Step.SETTLE)
            else:
                item.delivery.step(Step.LOSE)
                logger.warning("%s: %s could not be settled: %s", self._name, item.delivery.message.id, error)
        for item in batch:
            item.done(item.delivery, item.outcome)

    async def flush(self) -> None:
        """Wait until all that was put is settled or lost."""
        await self._queue.idle()


class _Item:
    """Compared by identity."""

    __slots__ = ("delivery", "done", "outcome")

    def __init__(self, delivery: Delivery, outcome: Outcome, done: Callable[[Delivery, Outcome], None]) -> None:
        self.delivery = delivery
        self.outcome = outcome
        self.done = done
