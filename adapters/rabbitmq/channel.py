"""One channel of a connection: calls answered in order, and content put together from its frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import trio
from pamqp import base
from pamqp.commands import Basic, Channel as ChannelCommands

from runtime.errors import SessionLost

from . import frames
from .frames import Confirm, Deliver, ProtocolError, Return
from .header import decode_header

if TYPE_CHECKING:
    from .connection import Connection

T = TypeVar("T", bound=base.Frame)


class ChannelClosed(Exception):
    """The server closed one channel: `code` and `text` are its reply. The connection is none the worse."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Channel:
    """Made by `Connection.open_channel`. What it gets by itself it hands to the callbacks, in the reader's task."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        #: Why nothing can be sent on it any more.
        self.error: ChannelClosed | SessionLost | None = None
        self.on_deliver: Callable[[Deliver, Basic.Properties, bytes], None] = _ignore
        self.on_return: Callable[[Return, Basic.Properties], None] = _ignore
        self.on_confirm: Callable[[Confirm, bool], None] = _ignore
        self.on_cancel: Callable[[], None] = _ignore
        self.on_end: Callable[[], None] = _ignore
        self._calls: deque[Call] = deque()
        self._closing = False
        # The content that is arriving: its method, then its header, then its body in parts.
        self._content: Deliver | Return | None = None
        self._properties: Basic.Properties | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    @property
    def is_open(self) -> bool:
        return self.error is None and not self._closing

    def send(self, data: bytes) -> None:
        """Queue frames for the writer. Raises `ChannelClosed` or `SessionLost` if the channel has ended."""
        if not self.is_open:
            raise self._gone(sent=False)
        self.connection.send(data)

    async def call(self, data: bytes, expected: type[T]) -> T:
        """Send a synchronous method's frame and wait for its answer.

        A cancel leaves the answer to the reader, which drops it in its turn. Raises `ChannelClosed` or `SessionLost`.
        """
        self.send(data)
        return await self.answer(self.expect(), expected)

    def expect(self) -> Call:
        """Queue for the next answer that nobody waits for yet."""
        call = Call()
        if self.error is None:
            self._calls.append(call)
        else:
            call.answered.set()
        return call

    async def answer(self, call: Call, expected: type[T]) -> T:
        await call.answered.wait()
        if isinstance(call.answer, expected):
            return call.answer
        if call.answer is not None:
            raise SessionLost(f"this is no RabbitMQ: it answered {call.answer.name} where {expected.name} was due")
        raise self._gone()

    def begin_fence(self) -> Call:
        """Ask for an answer that says that the server has taken everything sent on this channel before.

        It works through a channel in order, so any answer will do; this method does nothing, and is the cheapest.
        """
        self.send(frames.method(self.number, ChannelCommands.Flow(active=True)))
        return self.expect()

    async def end_fence(self, call: Call) -> None:
        await self.answer(call, ChannelCommands.FlowOk)

    async def close(self, limit: float) -> None:
        """Close it, and wait at most `limit` seconds, also under a cancel, until the server has."""
        if not self.is_open:
            return
        good_bye = frames.method(self.number, ChannelCommands.Close(200, "", 0, 0))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
            try:
                self.send(good_bye)
                self._closing = True  # what is sent after it would cost the connection
                await self.answer(self.expect(), ChannelCommands.CloseOk)
            except (ChannelClosed, SessionLost):
                pass
        # Without an answer its number is not used again.
        self.end(SessionLost("the channel was closed"))

    # ---- the reader's side ---------------------------------------------------------------------------------------

    def take(self, frame: frames.Frame) -> None:
        """A frame for this channel. Raises `ProtocolError`."""
        if frame.kind == frames.METHOD:
            self._take_method(frame.payload)
        elif frame.kind == frames.HEADER:
            try:
                size, properties = decode_header(frame.payload)
            except (ValueError, IndexError) as error:
                raise ProtocolError(str(error)) from error
            self.take_header(size, properties)
        else:
            self.take_body(frame.payload)

    def _take_method(self, payload: bytes) -> None:
        index = frames.method_index(payload)
        if index == frames.DELIVER:
            self.take_content(frames.parse_deliver(payload))
        elif index == frames.RETURN:
            self.take_content(frames.parse_return(payload))
        elif index in (frames.ACK, frames.NACK):
            self.on_confirm(frames.parse_confirm(payload), index == frames.ACK)
        else:
            self.take_answer(frames.parse_method(payload))

    def take_content(self, method: Deliver | Return) -> None:
        """Its header comes next."""
        if self._content is not None:
            raise ProtocolError("a method arrived in the middle of content")
        self._content = method

    def take_header(self, size: int, properties: Basic.Properties) -> None:
        """Its body comes next, unless it is empty."""
        if self._content is None:
            raise ProtocolError("content arrived for no method")
        self._missing, self._properties = size, properties
        if not size:
            self._finish(b"")

    def take_body(self, part: bytes) -> None:
        if self._properties is None:
            raise ProtocolError("a body arrived before its header")
        self._missing -= len(part)
        if self._missing < 0:
            raise ProtocolError("a body is longer than its header said")
        if self._missing:
            self._parts.append(part)
        else:
            self._finish(b"".join((*self._parts, part)) if self._parts else part)

    def take_answer(self, method: base.Frame) -> None:
        """A method that is neither content nor a confirm."""
        if isinstance(method, ChannelCommands.Close):
            self.connection.send(frames.method(self.number, ChannelCommands.CloseOk()))
            self.end(ChannelClosed(method.reply_code or 0, method.reply_text or ""))
            # When both sides close at once, the answer to ours is still to come.
            if not self._closing:
                self.connection.forget(self)
        elif self._content is not None:
            raise ProtocolError("a method arrived in the middle of content")
        elif isinstance(method, Basic.Cancel):
            self.on_cancel()
        elif self._calls:
            if isinstance(method, ChannelCommands.CloseOk):
                self.connection.forget(self)
            self._calls.popleft().give(method)
        else:
            raise ProtocolError(f"{method.name} arrived, and nobody had asked")

    def _finish(self, body: bytes) -> None:
        content, properties = self._content, self._properties
        assert properties is not None
        self._content, self._properties = None, None
        self._parts.clear()
        if isinstance(content, Deliver):
            self.on_deliver(content, properties, body)
        elif content is not None:
            self.on_return(content, properties)

    def end(self, error: ChannelClosed | SessionLost) -> None:
        """It is over; all who wait hear of it. Only the first reason counts."""
        if self.error is None:
            self.error = error
            for call in self._calls:
                call.answered.set()
            self.on_end()
        # Calls keep their places, so that a late answer still finds its own.

    def _gone(self, *, sent: bool = True) -> ChannelClosed | SessionLost:
        """A new error for everyone: many tasks may raise it."""
        if isinstance(self.error, ChannelClosed):
            return ChannelClosed(self.error.code, str(self.error))
        return SessionLost("the channel was closed" if self.error is None else str(self.error), sent=sent)


class Call:
    """One who waits for an answer."""

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.answer: base.Frame | None = None
        self.answered = trio.Event()

    def give(self, answer: base.Frame) -> None:
        self.answer = answer
        self.answered.set()


def _ignore(*_: object) -> None:
    pass
