"""One AMQP 0-9-1 connection over a Trio stream: a reader, a writer, a heartbeat, and the channels between them.

Not aio-pika: on asyncio it cannot be cancelled in every state, and what it adds (reconnects, a topology that it restores)
is what a structured runtime must not have hidden in a client. pamqp is the codec of both.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import trio
from pamqp.commands import Channel as ChannelCommands, Connection as Commands

from runtime.dial import Dialer
from runtime.errors import Refused, SessionLost
from runtime.services import open_services

from . import frames, methods
from .address import Address
from .channel import Channel, ChannelClosed
from .frames import ProtocolError

_READ_SIZE: Final = 256 * 1024
#: Bytes; RabbitMQ's own default. Larger bodies travel in several frames.
_FRAME_MAX: Final = 128 * 1024
_CHANNEL_MAX: Final = 2047
#: Seconds for the good-byes of a connection; then it is closed without them. A session has two connections.
CLOSE_LIMIT: Final = 0.1
#: The server's words for a login that trying again does not mend: ACCESS_REFUSED, and NOT_ALLOWED for a virtual host.
_HOPELESS: Final = frozenset({403, 530})

_CAPABILITIES: Final = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class Connection:
    """Made by `open_connection`."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.SocketStream) -> None:
        #: What is spoken over: the socket itself, or TLS on top of it.
        self._stream = stream
        self._socket = socket
        self._parser = frames.FrameParser()
        self._outgoing: list[bytes] = []
        self._filled = trio.lowlevel.ParkingLot()
        self._control = Channel(self, 0)
        self._channels: dict[int, Channel] = {0: self._control}
        self._free: set[int] = set()
        self._channel_max = _CHANNEL_MAX
        self.frame_max = _FRAME_MAX
        #: Why the server takes no messages for now.
        self.blocked: str | None = None
        #: Called in the reader's task when `blocked` changes, and when the connection is over.
        self.on_news: Callable[[], None] = lambda: None
        #: Why it is over.
        self._ended: SessionLost | None = None
        self._logged_in = False
        self._closing = False
        self._received_at = self._sent_at = trio.current_time()

    @property
    def ended(self) -> SessionLost | None:
        """Why nothing can be sent any more."""
        return self._ended

    def send(self, data: bytes) -> None:
        """Queue bytes for the writer, which sends all that is queued at once. Raises `SessionLost` after the end."""
        if self._ended is not None:
            raise SessionLost(str(self._ended), sent=False)
        self._outgoing.append(data)
        self._filled.unpark()

    async def open_channel(self) -> Channel:
        """A new channel. Raises `SessionLost`, and `Refused` when the connection has as many as were agreed on."""
        if not self._free and len(self._channels) > self._channel_max:
            raise Refused(f"the connection has all of the {self._channel_max} channels that the server allows")
        channel = Channel(self, self._free.pop() if self._free else len(self._channels))
        self._channels[channel.number] = channel
        try:
            await channel.call(frames.method(channel.number, ChannelCommands.Open()), ChannelCommands.OpenOk)
        except trio.Cancelled:
            await channel.close(0)
            raise
        return channel

    def forget(self, channel: Channel) -> None:
        """Both sides have closed it: its number is free."""
        if self._channels.get(channel.number) is channel:
            # Its place stays in the table, so that the table's size is the next number never used.
            self._free.add(channel.number)

    # ---- the three tasks -----------------------------------------------------------------------------------------

    async def read(self) -> None:
        """The reader. Returns if we closed the connection; if the other side did it raises `SessionLost` or `Refused`."""
        try:
            error = await self._read_to_the_end()
            self._end(str(error))
        finally:
            self._end("the connection was closed")
        if not self._closing:
            raise error

    async def _read_to_the_end(self) -> Exception:
        try:
            while True:
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    return SessionLost(self._why("the server closed the connection"))
                self._received_at = trio.current_time()
                for frame in self._parser.feed(bytes(data)):
                    self._take(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            return SessionLost(self._why(f"the connection broke: {broken.__cause__ or broken}"))
        except ProtocolError as strange:
            return SessionLost(f"this is no RabbitMQ: {strange}")
        except (SessionLost, Refused) as known:
            return known

    async def write(self) -> NoReturn:
        """The writer: everything that was queued goes out in one send."""
        try:
            while True:
                while not self._outgoing:
                    await self._filled.park()
                data, self._outgoing = b"".join(self._outgoing), []
                self._sent_at = trio.current_time()
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep_forever()  # the reader knows more: what the server said before it hung up

    async def beat(self, interval: float) -> NoReturn:
        """Heartbeats both ways. Raises `SessionLost` when there was not a byte for twice the interval."""
        while True:
            await trio.sleep(interval / 2)
            now = trio.current_time()
            if now - self._received_at > 2 * interval:
                raise SessionLost(f"the server sent no byte for {2 * interval:g} s")
            # One that still waits to be written is enough.
            if now - self._sent_at >= interval / 2 and not self._outgoing and self._ended is None:
                self.send(frames.HEARTBEAT_FRAME)

    # ---- frames --------------------------------------------------------------------------------------------------

    def _take(self, frame: frames.Frame) -> None:
        if frame.kind == frames.HEARTBEAT:
            return
        if frame.channel:
            channel = self._channels.get(frame.channel)
            if channel is None:
                raise ProtocolError(f"a frame arrived for channel {frame.channel}, which nobody opened")
            channel.take(frame)
            return
        method = frames.parse_method(frame.payload)
        if isinstance(method, Commands.Close):
            self.send(frames.method(0, Commands.CloseOk()))
            words = f"the server said: {method.reply_text}"
            raise Refused(words) if method.reply_code in _HOPELESS and not self._logged_in else SessionLost(words)
        if isinstance(method, Commands.Blocked):
            self.blocked = method.reason or "it gave no reason"
            self.on_news()
        elif isinstance(method, Commands.Unblocked):
            self.blocked = None
            self.on_news()
        else:
            self._control.take(frame)

    async def log_in(self, address: Address, name: str, heartbeat: int) -> float:
        """The handshake; returns the seconds between heartbeats that were agreed on, 0 for none."""
        control = self._control
        self.send(frames.PROTOCOL_HEADER)
        start = await control.answer(control.expect(), Commands.Start)
        if "PLAIN" not in str(start.mechanisms).split():
            raise Refused(f"{address} does not take passwords: it offers {start.mechanisms}")
        properties: dict[str, Any] = {"product": "trio-runtime", "connection_name": name, "capabilities": _CAPABILITIES}
        answer = Commands.StartOk(properties, "PLAIN", f"\0{address.username}\0{address.password}", "en_US")
        tune = await control.call(frames.method(0, answer), Commands.Tune)
        self.frame_max = min(tune.frame_max or _FRAME_MAX, _FRAME_MAX)
        self._channel_max = min(tune.channel_max or _CHANNEL_MAX, _CHANNEL_MAX)
        beat = min(tune.heartbeat or heartbeat, heartbeat)
        self.send(frames.method(0, Commands.TuneOk(self._channel_max, self.frame_max, beat)))
        await control.call(methods.open_vhost(address.vhost), Commands.OpenOk)
        self._logged_in = True
        return beat

    async def close(self, limit: float) -> None:
        """Say good-bye and wait at most `limit` seconds, also under a cancel, for the server's."""
        self._closing = True
        if self._ended is None and self._logged_in:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
                try:
                    good_bye = frames.method(0, Commands.Close(200, "", 0, 0))
                    await self._control.call(good_bye, Commands.CloseOk)
                except (SessionLost, ChannelClosed):
                    pass
        self._end("the connection was closed")

    def _why(self, how_it_ended: str) -> str:
        return how_it_ended if self._ended is None else str(self._ended)

    def _end(self, why: str) -> None:
        """Nothing more is sent; all who wait hear of it."""
        if self._ended is None:
            self._ended = SessionLost(why)
        for channel in self._channels.values():
            channel.end(self._ended)
        self.on_news()


@asynccontextmanager
async def open_connection(
    address: Address, dialer: Dialer, name: str, *, heartbeat: int, deadline: float
) -> AsyncIterator[Connection]:
    """Connect and log in before `deadline`, by Trio's clock; `name` is what `rabbitmqctl list_connections` shows.

    Raises OSError or `SessionLost` if that fails, `Refused` if the server says no. While the block runs, the end of the
    connection cancels it and raises `SessionLost`. Leaving it says good-bye for a moment, and closes the socket.
    """
    try:
        with trio.fail_at(deadline):
            socket = await dialer.connect(address.host, address.port)
            stream = socket if address.tls is None else await _wrap_tls(socket, address, address.tls)
    except trio.TooSlowError:
        raise SessionLost(f"no connection to {address} in time", sent=False) from None
    try:
        async with open_services() as services:
            connection = Connection(stream, socket)
            services.start_soon(connection.read, name=f"{name}: reader")
            services.start_soon(connection.write, name=f"{name}: writer")
            try:
                try:
                    with trio.fail_at(deadline):
                        interval = await connection.log_in(address, name, heartbeat)
                except trio.TooSlowError:
                    raise SessionLost(f"no answer from {address} in time", sent=False) from None
                if interval:
                    services.start_soon(connection.beat, interval, name=f"{name}: heartbeat")
                yield connection
            finally:
                await connection.close(CLOSE_LIMIT)
    finally:
        await trio.aclose_forcefully(stream)


async def _wrap_tls(
    stream: trio.SocketStream, address: Address, tls: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    secure = trio.SSLStream(stream, tls, server_hostname=address.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise SessionLost(f"no TLS with {address}: {error.__cause__ or error}", sent=False) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure
