"""The live half of one broker: link, outbox, settler and supervisor, in one nursery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from .broker import Broker
from .dispatch import Dispatch
from .endpoint import Endpoint
from .intake import Intake
from .link import Link, LinkState
from .outbox import Outbox
from .outside import Outside
from .settlement import Settler
from .status import BrokerStatus, SubscriptionStatus
from .subscription import Subscription
from .supervisor import Supervisor


class BrokerRun:
    """One broker of one run. Nothing in here is shared with another broker (P1)."""

    def __init__(self, broker: Broker[Any], name: str, intake: Intake, outside: Outside) -> None:
        self.broker = broker
        self.name = name
        self.outside = outside
        self.link = Link()
        self.outbox = Outbox(name, self.link, broker.publish_limit)
        self.settler = Settler(name, broker.features, self.link)
        self.subscriptions: list[Subscription] = []
        self._intake = intake

    def subscribe(
        self, source: Any, handler: str, endpoint: Endpoint, *, concurrency: int, prefetch: int, ordered: bool
    ) -> None:
        """Add a subscription, before `run`."""
        dispatch = Dispatch(
            handler,
            endpoint,
            self.settler,
            self._intake,
            concurrency=concurrency,
            prefetch=prefetch,
            ordered=ordered,
            cancel_lost=self.broker.features.lost == "cancelled",
        )
        name = f"{self.name} {source}"
        self.subscriptions.append(
            Subscription(name, source, dispatch, self._intake, self.broker.backoff, self.outside.jitter)
        )

    @property
    def dispatches(self) -> Sequence[Dispatch]:
        return [subscription.dispatch for subscription in self.subscriptions]

    async def run(self, identity: str) -> None:
        """Serve the broker until cancelled."""
        supervisor = Supervisor(
            self.name,
            self.outside.open_session(self.broker),
            identity,
            self.broker.features,
            self.link,
            self.subscriptions,
            backoff=self.broker.backoff,
            jitter=self.outside.jitter,
            probe_interval=self.broker.probe_interval,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run, name=f"{self.name}: supervisor")
                nursery.start_soon(self.settler.run, name=f"{self.name}: settlement")
                nursery.start_soon(self.outbox.run, name=f"{self.name}: outbox")
        finally:
            self.link.no_session(LinkState.CLOSED)
            self.outbox.abandon()

    async def flush(self) -> None:
        """Refuse new publishes, and wait until every settlement and every publish has its answer."""
        self.outbox.close()
        await self.settler.flush()
        await self.outbox.flush()

    def status(self) -> BrokerStatus:
        link = self.link
        return BrokerStatus(
            name=self.name,
            url=self.broker.safe_url,
            state=link.state,
            error=link.error,
            sessions=link.sessions,
            attempts=link.attempts,
            publishing=len(self.outbox),
            publish_error=self.outbox.trouble,
            subscriptions=tuple(map(_subscription_status, self.subscriptions)),
        )


def _subscription_status(subscription: Subscription) -> SubscriptionStatus:
    dispatch, counters = subscription.dispatch, subscription.dispatch.counters
    return SubscriptionStatus(
        source=str(subscription.source),
        handler=dispatch.handler,
        state=subscription.state,
        error=subscription.error,
        concurrency=dispatch.concurrency,
        prefetch=dispatch.prefetch,
        running=len(dispatch.running),
        unsettled=len(dispatch.held),
        lag=subscription.lag,
        received=counters.received,
        acked=counters.acked,
        released=counters.released,
        rejected=counters.rejected,
        lost=counters.lost,
        assignment=subscription.assignment,
    )
