"""What a connection is to those who use it: its channels, whether the server takes messages, and its end.

Two kinds of connection fill in the rest: `native` and `aio`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio
from pamqp.commands import Channel as ChannelCommands

from runtime.dial import Dialer
from runtime.errors import Refused, SessionLost

from . import frames
from .address import Address
from .channel import Channel
from .frames import ProtocolError

#: Bytes; RabbitMQ's own default. Larger bodies travel in several frames.
FRAME_MAX: Final = 128 * 1024
CHANNEL_MAX: Final = 2047
#: Seconds for the good-byes of a connection; then it is closed without them. A session has two connections.
CLOSE_LIMIT: Final = 0.1
#: The server's words for a login that trying again does not mend: ACCESS_REFUSED, and NOT_ALLOWED for a virtual host.
HOPELESS: Final = frozenset({403, 530})


class Connection(ABC):
    """Made by an `OpenConnection`. Frames arrive in the reader's task, and so do the calls of `on_news`."""

    def __init__(self) -> None:
        self.frame_max = FRAME_MAX
        self.channel_max = CHANNEL_MAX
        #: Why the server takes no messages for now.
        self.blocked: str | None = None
        #: Called when `blocked` changes, and when the connection is over.
        self.on_news: Callable[[], None] = lambda: None
        #: Why nothing can be sent any more.
        self.ended: SessionLost | None = None
        self._channels: dict[int, Channel] = {}
        self._free: set[int] = set()

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Queue bytes, which go out with all that is queued at once. Raises `SessionLost` after the end."""

    def check(self) -> None:
        if self.ended is not None:
            raise SessionLost(str(self.ended), sent=False)

    async def open_channel(self) -> Channel:
        """A new channel. Raises `SessionLost`, and `Refused` when the connection has as many as were agreed on."""
        if not self._free and len(self._channels) >= self.channel_max:
            raise Refused(f"the connection has all of the {self.channel_max} channels that the server allows")
        channel = Channel(self, self._free.pop() if self._free else len(self._channels) + 1)
        self._channels[channel.number] = channel
        try:
            await channel.call(frames.method(channel.number, ChannelCommands.Open()), ChannelCommands.OpenOk)
        except trio.Cancelled:
            await channel.close(0)
            raise
        return channel

    def channel(self, number: int) -> Channel:
        """The one that a frame is for. Raises `ProtocolError`."""
        channel = self._channels.get(number)
        if channel is None:
            raise ProtocolError(f"a frame arrived for channel {number}, which nobody opened")
        return channel

    def forget(self, channel: Channel) -> None:
        """Both sides have closed it: its number is free."""
        if self._channels.get(channel.number) is channel:
            # Its place stays in the table, so that the table's size is the last number ever used.
            self._free.add(channel.number)

    def block(self, why: str | None) -> None:
        self.blocked = why
        self.on_news()

    def end(self, why: str) -> None:
        """Nothing more is sent; all who wait hear of it. Only the first reason counts."""
        if self.ended is None:
            self.ended = SessionLost(why)
        for channel in self._channels.values():
            channel.end(self.ended)
        self.on_news()


class OpenConnection(Protocol):
    def __call__(
        self, address: Address, dialer: Dialer, name: str, *, heartbeat: int, deadline: float
    ) -> AbstractAsyncContextManager[Connection]:
        """Connect and log in before `deadline`, by Trio's clock; `name` is what `rabbitmqctl list_connections` shows.

        Raises OSError or `SessionLost` if that fails, `Refused` if the server says no. While the block runs, the end of
        the connection cancels it and raises `SessionLost`. Leaving it says good-bye for a moment, and closes the socket.
        """
