"""Handlers that remember, for tests of Kafka."""

from __future__ import annotations

import threading
from typing import Any

from adapters.kafka import KafkaBroker, Topic
from runtime import Message

#: A group whose members hear of each other quickly.
QUICK = {"heartbeat.interval.ms": 100, "session.timeout.ms": 3000}


class ClientThreads:
    """Those of clients made from now on: one that an earlier test gave up on may end in the middle of this one."""

    def __init__(self) -> None:
        self._others = set(threading.enumerate())

    def names(self) -> list[str]:
        mine = set(threading.enumerate()) - self._others
        return [t.name for t in mine if " consumer " in t.name or t.name.endswith("producer")]


class Collector:
    """A handler that remembers."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.messages: list[Message] = []

    async def __call__(self, body: Any, message: Message) -> None:
        self.bodies.append(body)
        self.messages.append(message)


def collect(broker: KafkaBroker, source: Topic | str, **options: Any) -> Collector:
    seen = Collector()

    async def handle(body: object, message: Message) -> None:
        await seen(body, message)

    broker.subscriber(source, **options)(handle)
    return seen
