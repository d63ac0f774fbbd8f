"""What the suite asks of an adapter's author: how to reach the broker, and what he can do to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar, Unpack

from ...adapter import Features
from ...broker import Broker, BrokerOptions
from ...delivery import Delivery
from ...message import NO_HEADERS


class Rig(ABC):
    """How the suite reaches one broker. The features and two methods are a must; each other hook that is not overridden
    skips the tests that need it, with its name as the reason, so that what was not tested is counted.

    One rig serves one test. Tests make their own names, so a server may be shared and need not be emptied.
    """

    #: `MyBroker.features`: the tests decide by it what to expect.
    features: ClassVar[Features]
    #: Seconds that the broker may take for anything that it does at its own pace: a first delivery, a rejoin of a
    #: group, coming back after an outage. Nothing waits for so long unless it fails.
    patience: float = 10.0
    #: Seconds after which the lease of a dead consumer runs out, for sources made by `source`. None where leases end
    #: with the session. Short ones make short tests: the suite waits for a few of them.
    lease: ClassVar[float | None] = None
    #: Bytes in the largest body that the suite sends.
    largest: int = 3 * 1024 * 1024

    @abstractmethod
    def make_broker(self, **options: Unpack[BrokerOptions]) -> Broker[Any]:
        """A new broker object for the same server: pass `options` on to it."""

    @abstractmethod
    def source(self, name: str, group: str | None = None) -> Any:
        """A source of that name that reads from the beginning; `group` is None, or the adapter has groups.

        Where a source has partitions, either give it one, or spread messages by key alone.
        """

    def nowhere(self, name: str) -> Any:
        """A destination that nobody could ever receive from; for `Features.unroutable` only. By default a source of that
        name that nobody has opened."""
        return self.source(name)

    async def foreign_publish(self, name: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Write a message into an existing source as a program would that has never heard of this runtime."""
        raise NotImplementedError

    async def take_lease(self, delivery: Delivery) -> None:
        """Take the lease of a delivery away while its consumer holds it, by whatever way the broker has: another
        consumer claims it, its partition is given to somebody else. The adapter finds out by itself."""
        raise NotImplementedError

    def outage(self) -> AbstractAsyncContextManager[None]:
        """For the length of a block the broker is out of reach: every connection is cut as it begins, and new ones are
        refused. What the broker has stored, it keeps."""
        raise NotImplementedError

    def frozen(self) -> AbstractAsyncContextManager[None]:
        """For the length of a block nothing answers, and no connection is closed: a SIGSTOP, a black hole."""
        raise NotImplementedError


# ---- for the tests -----------------------------------------------------------------------------------------------

#: Why a rig of this type cannot run a test; None if it can.
Condition = Callable[[type[Rig]], str | None]
F = TypeVar("F", bound=Callable[..., object])


def needs(*hooks: Callable[..., Any]) -> Callable[[F], F]:
    """The test is skipped unless the rig overrides these methods of `Rig`."""

    def missing(rig_type: type[Rig]) -> str | None:
        names = [f"{hook.__name__}()" for hook in hooks if getattr(rig_type, hook.__name__) is hook]
        return f"{rig_type.__name__} has no {' and no '.join(names)}" if names else None

    return _only_if(missing)


def needs_lease(test: F) -> F:
    """The test is skipped where leases are the broker's and `Rig.lease` does not tell how long they are."""

    def unknown(rig_type: type[Rig]) -> str | None:
        is_told = rig_type.features.lease == "session" or rig_type.lease is not None
        return None if is_told else f"{rig_type.__name__} has no lease"

    return _only_if(unknown)(test)


def where(**claimed: object) -> Callable[[F], F]:
    """The test is skipped unless the adapter's `Features` have these values."""

    def otherwise(rig_type: type[Rig]) -> str | None:
        others = [
            f"Features.{field} is {actual!r}"
            for field, value in claimed.items()
            if (actual := getattr(rig_type.features, field)) != value
        ]
        return ", ".join(others) or None

    return _only_if(otherwise)


def conditions(test: object) -> list[Condition]:
    """What has to hold for a test to be run."""
    found: list[Condition] = getattr(test, _CONDITIONS, [])
    return found


_CONDITIONS = "_conformance_conditions"


def _only_if(condition: Condition) -> Callable[[F], F]:
    def add(test: F) -> F:
        setattr(test, _CONDITIONS, [condition, *conditions(test)])
        return test

    return add
