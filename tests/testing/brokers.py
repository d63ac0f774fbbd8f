"""The kinds of brokers that the kit has to simulate, as declarations: no adapter's own code runs in a world."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from adapters.memory import MemoryBroker
from adapters.redis import RedisBroker
from runtime import Broker, Features, Message, Unroutable

from ..fakes import FakeBroker, Place


class StrictBroker(FakeBroker):
    """Refuses what nobody reads; its leases and its counts are the session's."""

    def route(self, message: Message, destination: Place, declared: Collection[Place]) -> Sequence[str]:
        if destination not in declared:
            raise Unroutable(f"nothing would receive message {message.id} to {destination}")
        return (destination.name,)


class LastingBroker(FakeBroker):
    """Its leases outlive the session."""

    features: ClassVar[Features] = Features(
        ordering="process", lease="broker", attempts="broker", groups=False, unroutable=False
    )


def brokers() -> list[Broker[Any]]:
    """One of each kind."""
    return [MemoryBroker(), RedisBroker("redis://nowhere.invalid"), StrictBroker(), LastingBroker()]
