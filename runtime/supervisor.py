"""The supervisor of one broker: connect → session → back-off, for as long as the run lives, drains included.

Its nursery is the broker's: the watchdog and the subscriptions of a session are its children, each in its own scope.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

import trio

from .adapter import Features, OpenSession
from .backoff import Backoff, is_hopeless
from .dial import Dialer
from .errors import SessionLost, describe, unexpected
from .link import Link, LinkState
from .subscription import Subscription
from .watchdog import watch

logger = logging.getLogger("runtime.supervisor")


class Supervisor:
    """Keeps one broker's link up. Never gives up, never raises: an unreachable broker is a state, not an exception."""

    def __init__(
        self,
        name: str,
        open_session: OpenSession,
        identity: str,
        features: Features,
        link: Link,
        subscriptions: Sequence[Subscription],
        *,
        backoff: Backoff,
        jitter: Callable[[], float],
        probe_interval: float,
    ) -> None:
        self._name = name
        self._open_session = open_session
        self._identity = identity
        self._features = features
        self._link = link
        self._subscriptions = subscriptions
        self._backoff = backoff
        self._jitter = jitter
        self._probe_interval = probe_interval
        self._dialer = Dialer()
        #: The troubles in the log since the last stable session.
        self._reported: set[str] = set()
        #: The log's last word is not what is true now.
        self._is_news = True

    async def run(self) -> NoReturn:
        link = self._link
        while True:
            sessions, opened = link.sessions, trio.current_time()
            error: BaseException = SessionLost("the session ended")
            try:
                await self._hold_session()
            except* Exception as group:
                error = group
            held = link.sessions > sessions
            error = link.take_loss() or error
            uptime = trio.current_time() - opened if held else 0.0
            link.attempts = self._backoff.next_attempt(link.attempts, uptime)
            why = describe(error)
            link.no_session(LinkState.DOWN, why)
            if held:
                for subscription in self._subscriptions:
                    subscription.session_ended(self._features)
            if uptime >= self._backoff.stable:
                self._reported.clear()
            self._report(f"lost: {why}" if held else f"not connected: {why}", error)
            await trio.sleep(self._backoff.delay(link.attempts, self._jitter(), hopeless=is_hopeless(error)))
            link.no_session(LinkState.CONNECTING)

    async def _hold_session(self) -> None:
        """Open a session and keep everything that lives on it running, until something says that it is over."""
        async with self._open_session(self._identity, self._dialer) as session:
            async with trio.open_nursery() as nursery:
                self._link.up(session, nursery.cancel_scope)
                logger.log(logging.INFO if self._is_news else logging.DEBUG, "%s: connected", self._name)
                self._is_news = False
                nursery.start_soon(watch, session, self._link, self._probe_interval, name=f"{self._name}: watchdog")
                for subscription in self._subscriptions:
                    nursery.start_soon(subscription.run, session, name=f"{self._name}: {subscription.name}")

    def _report(self, line: str, error: BaseException) -> None:
        """One line for each kind of trouble, not one for each attempt; the rest is for debugging."""
        is_news = line not in self._reported
        self._reported.add(line)
        self._is_news = self._is_news or is_news
        level = logging.WARNING if is_news else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(level, "%s: %s; trying again until it works", self._name, line, exc_info=unexpected(error))
