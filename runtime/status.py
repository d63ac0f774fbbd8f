"""Frozen snapshots of a run: what `Runtime.status()` returns. Plain data, safe to keep and to send."""

from __future__ import annotations

from dataclasses import dataclass

from .drain import Phase
from .link import LinkState
from .subscription import SubscriptionState


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    """One subscription. The counts are since the run started."""

    source: str
    handler: str
    state: SubscriptionState
    #: Why it is failing: one line.
    error: str | None
    concurrency: int
    prefetch: int
    #: Handlers that run now; at most `concurrency`.
    running: int
    #: Deliveries taken and not settled yet; at most `prefetch`.
    unsettled: int
    #: Messages that wait on the broker and that nobody in the group has received; None while that is not known.
    lag: int | None
    received: int
    acked: int
    released: int
    rejected: int
    lost: int
    #: Which part of the source is this process's, on brokers that deal it out in parts (Kafka's partitions).
    assignment: str | None = None

    @property
    def ready(self) -> bool:
        return self.state is SubscriptionState.RUNNING


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """One broker and its subscriptions."""

    name: str
    #: Without the password.
    url: str
    state: LinkState
    #: Why it is not connected, or not well: one line.
    error: str | None
    #: How many sessions there have been.
    sessions: int
    #: Failed attempts since the last stable session.
    attempts: int
    #: Publishes that wait, for a session or for their confirm.
    publishing: int
    #: Why the broker refuses publishes, although it is connected: one line.
    publish_error: str | None
    subscriptions: tuple[SubscriptionStatus, ...]

    @property
    def ready(self) -> bool:
        """Connected and answering, and every subscription consuming."""
        return self.state is LinkState.CONNECTED and all(s.ready for s in self.subscriptions)


@dataclass(frozen=True, slots=True)
class Status:
    """A whole run; with no brokers in it when nothing is being served."""

    phase: Phase
    #: Why it stops, when it does.
    reason: str | None
    brokers: tuple[BrokerStatus, ...]

    @property
    def ready(self) -> bool:
        """Running, and every broker ready."""
        return self.phase is Phase.RUNNING and all(b.ready for b in self.brokers)

    def broker(self, name: str) -> BrokerStatus:
        """The broker called `name`. Raises KeyError naming those there are."""
        for broker in self.brokers:
            if broker.name == name:
                return broker
        raise KeyError(
            f"no broker {name!r} in this run; there are: {', '.join(b.name for b in self.brokers) or 'none'}"
        )
