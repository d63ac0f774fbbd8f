"""The link to a broker: its one session, or why there is none. Written by the supervisor, waited on by all others."""

from __future__ import annotations

from enum import Enum

import trio

from .adapter import Session


class LinkState(Enum):
    """How a broker's link is. Only `CONNECTED` and `DEGRADED` have a session."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    #: Connected, and the last probe got no answer in time.
    DEGRADED = "degraded"
    #: Waiting to try again.
    DOWN = "down"
    CLOSED = "closed"


class Link:
    def __init__(self) -> None:
        self.state = LinkState.CONNECTING
        #: Why there is no session, or why the last one ended: one line.
        self.error: str | None = None
        #: How many sessions there have been.
        self.sessions = 0
        #: Failed attempts since the last stable session.
        self.attempts = 0
        self._session: Session | None = None
        self._scope: trio.CancelScope | None = None
        self._loss: Exception | None = None
        self._up = trio.Event()

    @property
    def is_up(self) -> bool:
        return self._session is not None

    async def session(self) -> Session:
        """The session; waits for one while there is none."""
        while self._session is None:
            await self._up.wait()
        return self._session

    def up(self, session: Session, scope: trio.CancelScope) -> None:
        """There is a session, and cancelling `scope` ends it."""
        self.state, self.error = LinkState.CONNECTED, None
        self.sessions += 1
        self._session, self._scope, self._loss = session, scope, None
        self._up.set()
        self._up = trio.Event()

    def lost(self, session: Session, error: Exception) -> None:
        """Whoever found out says that `session` is over. Old news is ignored."""
        if self._session is session and self._scope is not None:
            self._session, self._loss = None, error
            self._scope.cancel()

    def take_loss(self) -> Exception | None:
        """What `lost` was told about the session that just ended."""
        loss, self._loss = self._loss, None
        return loss

    def no_session(self, state: LinkState, why: str | None = None) -> None:
        """The session is over, or could not be opened."""
        self.state, self._session, self._scope = state, None, None
        if why is not None:
            self.error = why

    def degraded(self, why: str) -> None:
        if self._session is not None:
            self.state, self.error = LinkState.DEGRADED, why

    def healthy(self) -> None:
        if self._session is not None:
            self.state, self.error = LinkState.CONNECTED, None
