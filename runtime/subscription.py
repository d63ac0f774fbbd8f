"""One subscription of a run: its source opened on each session, its own state, its own back-off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import trio

from .adapter import Features, Receiver, Session
from .backoff import Backoff, is_hopeless
from .dispatch import Dispatch
from .errors import SessionLost, describe, unexpected
from .intake import Intake
from .poller import poll

logger = logging.getLogger("runtime.subscription")


class SubscriptionState(Enum):
    #: No session, or the source is being opened.
    WAITING = "waiting"
    #: Its poller runs.
    RUNNING = "running"
    #: The source could not be opened or failed; tried again after a back-off.
    FAILING = "failing"
    #: Takes nothing more: the run drains, or is over.
    STOPPED = "stopped"


class Subscription:
    def __init__(
        self,
        name: str,
        source: Any,
        dispatch: Dispatch,
        intake: Intake,
        backoff: Backoff,
        jitter: Callable[[], float],
    ) -> None:
        self.name = name
        self.source = source
        self.dispatch = dispatch
        self.state = SubscriptionState.WAITING
        #: Why it is failing: one line.
        self.error: str | None = None
        self._intake = intake
        self._backoff = backoff
        self._jitter = jitter
        self._was_open = False
        self._receiver: Receiver | None = None

    async def run(self, session: Session) -> NoReturn:
        """Consume on `session` until it is lost, which is not this subscription's business and so raises.

        During a drain the source is opened all the same: it keeps the leases of the handlers that still run.
        """
        attempt = 0
        while True:
            opened = trio.current_time()
            try:
                await self._consume(session)
            except* SessionLost:
                self._set(SubscriptionState.WAITING)
                raise
            except* Exception as group:
                attempt = self._backoff.next_attempt(attempt, trio.current_time() - opened)
                self._fail(group)
                wait = self._backoff.delay(attempt, self._jitter(), hopeless=is_hopeless(group))
            await trio.sleep(wait)

    async def _consume(self, session: Session) -> None:
        dispatch, again = self.dispatch, self._was_open
        async with session.open_source(
            self.source, dispatch.held, dispatch.lose, again=again, prefetch=dispatch.prefetch
        ) as receiver:
            self._was_open, self._receiver = True, receiver
            self._set(SubscriptionState.RUNNING)
            try:
                with self._intake.scope():
                    await poll(receiver, dispatch)
                # Draining.
                self._set(SubscriptionState.STOPPED)
                await trio.sleep_forever()
            finally:
                self._receiver = None

    @property
    def lag(self) -> int | None:
        """How many messages wait on the broker; None while that is not known."""
        return None if self._receiver is None else self._receiver.lag

    @property
    def assignment(self) -> str | None:
        """Which part of the source is this process's, on brokers that deal it out in parts."""
        return getattr(self._receiver, "assignment", None)

    def session_ended(self, features: Features) -> None:
        """The supervisor's news: where leases are the session's, every delivery that it brought is lost with it."""
        if self.state is not SubscriptionState.STOPPED:
            self._set(SubscriptionState.WAITING)
        if features.lease == "session":
            self.dispatch.lose_all()

    def _fail(self, error: BaseException) -> None:
        line = describe(error)
        known = self.state is SubscriptionState.FAILING and line == self.error
        self.state, self.error = SubscriptionState.FAILING, line
        # One line for each kind of trouble, not one for each attempt; a traceback only for what is no adapter's word.
        logger.log(
            logging.DEBUG if known else logging.ERROR,
            "%s: %s; trying again until it works",
            self.name,
            line,
            exc_info=unexpected(error),
        )

    def _set(self, state: SubscriptionState) -> None:
        if state is SubscriptionState.RUNNING:
            if self.error is not None:
                logger.info("%s: consuming again", self.name)
            self.error = None
        self.state = state
