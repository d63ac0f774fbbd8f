"""Handlers that remember, for tests of Kafka."""

from __future__ import annotations

import threading
from typing import Any

from adapters.kafka import KafkaBroker, Topic
from runtime import Message

#: A group whose members hear of each other quickly.
QUICK = {"heartbeat.interval.ms": 100, "session.timeout.ms": 3000}


def client_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if " consumer " in t.name or t.name.endswith("producer")]


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
