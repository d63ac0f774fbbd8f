"""What the run of a world takes from outside of itself: the world's, in place of the real one's."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import trio

from runtime.adapter import OpenSession
from runtime.broker import Broker
from runtime.delivery import Outcome
from runtime.endpoint import Endpoint, Middleware, Work
from runtime.handler import Function, Handler
from runtime.outside import Outside

from .line import Line
from .record import Record

#: When a seeded world begins: seconds since the epoch (2024-01-01, UTC).
EPOCH = 1_704_067_200.0


class WorldOutside(Outside):
    """The outside of one world; see `runtime.outside`."""

    def __init__(self, lines: Mapping[Broker[Any], Line], record: Record, began: float, seed: int | None) -> None:
        self.observed: set[Function] = set()
        self._lines = lines
        self._record = record
        self._began = began
        self._epoch = time.time() if seed is None else EPOCH
        self._chance = random.Random(seed)
        self._messages = 0

    def open_session(self, broker: Broker[Any]) -> OpenSession:
        return self._lines[broker].open_session

    def identity(self) -> str:
        return "world"

    def message_id(self) -> str:
        self._messages += 1
        return f"m{self._messages}"

    def jitter(self) -> float:
        return self._chance.random()

    def time(self) -> float:
        return self._epoch + trio.current_time() - self._began

    def observe(self, handler: Handler, decode: Callable[[bytes], Any]) -> Middleware:
        function = inspect.unwrap(handler.function)
        self.observed.add(function)
        record, name = self._record, handler.name

        async def observe(work: Work, next: Endpoint) -> Outcome:
            (delivery,) = work.deliveries
            record.call_began(name, function, decode, delivery)
            try:
                outcome = await next(work)
            except BaseException as error:
                record.call_ended(delivery, error=error)
                raise
            record.call_ended(delivery, outcome=outcome)
            return outcome

        return observe
