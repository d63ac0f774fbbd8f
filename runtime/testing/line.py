"""The line between one broker object and its simulated server, and the faults that a test puts on it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from runtime.broker import Broker
from runtime.dial import Dialer
from runtime.errors import ConfigurationError, SessionLost

from .record import Record
from .server import SimulatedServer
from .session import SimulatedSession


class Line:
    """What `world.broker(broker)` returns: the faults of one broker, now or on a schedule.

    `at` is seconds since the world began, and now if left out; `for_` is how long it lasts in seconds: to the end if
    left out, but for `disconnect`, after which the next attempt to connect succeeds. On `autojump_clock` both cost
    nothing and are exact.
    """

    def __init__(self, broker: Broker[Any], name: str, server: SimulatedServer, record: Record) -> None:
        self.broker = broker
        self.name = name
        self.server = server
        self.record = record
        self._delays: list[float] = []
        self._refusals = 0
        self._freezes = 0
        self._sessions: list[SimulatedSession] = []
        self._loses_ack = False
        self._loses_confirm = False
        # What reached a frozen server: done when it thaws, whether anybody still waits for it or not.
        self._backlog: list[Callable[[], object]] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self._began = 0.0
        #: Faults declared before the world began.
        self._planned: list[tuple[float, float, Callable[[], None], Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<Line {self.name} of {self.broker!r}>"

    # ---- faults --------------------------------------------------------------------------------------------------

    def disconnect(self, *, at: float | None = None, for_: float = 0.0) -> None:
        """Cut the connection, and refuse new ones for `for_` seconds."""
        self._schedule(at, for_, self._cut_off, self._let_in)

    def refuse(self, *, at: float | None = None, for_: float = math.inf) -> None:
        """Refuse new connections; one that is there stays."""
        self._schedule(at, for_, self._shut_out, self._let_in)

    def freeze(self, *, at: float | None = None, for_: float = math.inf) -> None:
        """The server answers nothing, and closes nothing. What reaches it meanwhile it does when it thaws."""
        self._schedule(at, for_, self._freeze, self._thaw)

    def slow(self, by: float, *, at: float | None = None, for_: float = math.inf) -> None:
        """Every operation takes `by` seconds longer."""
        if not 0 < by < math.inf:
            raise ConfigurationError(f"slow(by={by!r}): give seconds above 0; for no answer at all there is freeze()")

        def begin() -> None:
            self._delays.append(by)
            self._note(f"slower by {by:g} s")

        def end() -> None:
            self._delays.remove(by)
            self._note(f"no longer slower by {by:g} s")

        self._schedule(at, for_, begin, end)

    def lose_next_ack(self) -> None:
        """The connection breaks under the next settlements, before they reach the server."""
        self._loses_ack = True

    def lose_next_confirm(self) -> None:
        """The connection breaks after the next publishes have reached the server, before it could confirm them."""
        self._loses_confirm = True

    def duplicate_next(self) -> None:
        """The next message that is delivered is delivered twice."""
        self.server.duplicate_next = True

    def redeliver(self) -> None:
        """Every lease runs out now: what is delivered and not settled is delivered again, on the same connection."""

        def expire() -> None:
            self._note("all leases run out")
            self.server.expire(self.name)

        self.tell(expire)

    # ---- for the world -------------------------------------------------------------------------------------------

    def begin(self, nursery: trio.Nursery, began: float) -> None:
        """The world begins: what is planned comes to pass."""
        self._nursery, self._began = nursery, began
        for fault in self._planned:
            self._start(*fault)

    @property
    def has_fault(self) -> bool:
        return bool(self._freezes or self._delays or self._refusals)

    @property
    def is_idle(self) -> bool:
        """Whether the server has done all that has reached it."""
        return not self._backlog

    # ---- for the sessions ----------------------------------------------------------------------------------------

    @property
    def is_frozen(self) -> bool:
        return self._freezes > 0

    @property
    def delay(self) -> float:
        """Seconds that every operation takes on top. A sum made anew: what was added to a float does not subtract away."""
        return sum(self._delays)

    def open_session(self, identity: str, dialer: Dialer) -> AbstractAsyncContextManager[SimulatedSession]:
        """See `runtime.adapter.OpenSession`."""
        if self._refusals and not self.is_frozen and not self.delay:
            # The short way for what a long outage does most.
            raise ConnectionRefusedError("the test's world refuses connections")
        return self._open_session()

    @asynccontextmanager
    async def _open_session(self) -> AsyncIterator[SimulatedSession]:
        if self.is_frozen or self.delay:
            with trio.move_on_after(self.broker.connect_limit) as scope:
                await self.cross(None)
            if scope.cancelled_caught:
                raise TimeoutError(f"no answer within {self.broker.connect_limit:g} s")
        else:
            await trio.lowlevel.checkpoint()
        if self._refusals:
            raise ConnectionRefusedError("the test's world refuses connections")
        session = SimulatedSession(self)
        self._sessions.append(session)
        self._note("connected")
        try:
            yield session
        finally:
            self._sessions.remove(session)

    async def cross(self, session: SimulatedSession | None) -> None:
        """One way to the server: takes its time, stands still while it is frozen, raises if `session` is lost."""
        await trio.lowlevel.checkpoint()
        if self.delay:
            await trio.sleep(self.delay)
        while self.is_frozen and (session is None or session.loss is None):
            await self._changed.park()
        if session is not None and session.loss is not None:
            raise SessionLost(session.loss)

    async def ask(self, session: SimulatedSession, effect: Callable[[], object]) -> None:
        """Have the server do something and wait for its answer. Frozen, it does it when it thaws, waited for or not."""
        await trio.lowlevel.checkpoint()
        if session.loss is not None:
            raise SessionLost(session.loss, sent=False)
        self.tell(effect)
        await self.cross(session)

    def tell(self, effect: Callable[[], object]) -> None:
        """Have the server do something, without an answer."""
        if self.is_frozen:
            self._backlog.append(effect)
        else:
            effect()

    def takes_ack(self, session: SimulatedSession) -> None:
        """Raises `SessionLost` if this is the one that was to be lost."""
        if self._loses_ack:
            self._loses_ack = False
            session.lose("the connection broke under an acknowledgement")
            raise SessionLost(session.loss or "")

    def confirms(self, session: SimulatedSession) -> None:
        """Raises `SessionLost` if this is the one that was to be lost."""
        if self._loses_confirm:
            self._loses_confirm = False
            session.lose("the connection broke before a confirm")
            raise SessionLost(session.loss or "")

    def wake(self) -> None:
        self._changed.unpark_all()

    # ---- how they begin and end ----------------------------------------------------------------------------------

    def _cut_off(self) -> None:
        self._shut_out()
        for session in self._sessions:
            session.lose("the connection was cut by the test")
        self._note("connection cut")

    def _shut_out(self) -> None:
        self._refusals += 1
        self._note("connections refused")

    def _let_in(self) -> None:
        self._refusals -= 1
        self._note("connections accepted")

    def _freeze(self) -> None:
        self._freezes += 1
        self._note("frozen")

    def _thaw(self) -> None:
        self._freezes -= 1
        if self._freezes:
            return
        self._note("thawed")
        backlog, self._backlog = self._backlog, []
        for effect in backlog:
            effect()
        self._changed.unpark_all()

    def _note(self, what: str) -> None:
        self.record.note(self.name, what)
        self.record.changed.unpark_all()

    def _schedule(self, at: float | None, for_: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        if at is not None and not 0 <= at < math.inf:
            raise ConfigurationError(f"at={at!r}: give seconds since the world began, from 0 up")
        if not for_ >= 0:
            raise ConfigurationError(f"for_={for_!r}: give seconds, from 0 up")
        if self._nursery is None:
            self._planned.append((at or 0.0, for_, begin, end))
            return
        now = trio.current_time() - self._began
        if at is not None and at < now:
            raise ConfigurationError(f"at={at!r} is past, it is {now:g} s: leave at out for now")
        self._start(now if at is None else at, for_, begin, end)

    def _start(self, at: float, for_: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """What begins now begins before this returns: the next line of the test meets it."""
        assert self._nursery is not None
        starts = self._began + at
        if due := starts <= trio.current_time():
            begin()
            if for_ == 0:
                end()
                return
        self._nursery.start_soon(_carry_out, starts, for_, None if due else begin, end, name=f"fault of {self.name}")


async def _carry_out(starts: float, for_: float, begin: Callable[[], None] | None, end: Callable[[], None]) -> None:
    if begin is not None:
        await trio.sleep_until(starts)
        begin()
    await trio.sleep_until(starts + for_)
    end()
