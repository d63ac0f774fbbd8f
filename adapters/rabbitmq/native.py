"""The native connection: AMQP 0-9-1 over a Trio stream, with a reader, a writer and a heartbeat.

Not aio-pika: on asyncio it cannot be cancelled in every state, and what it adds (reconnects, a topology that it restores)
is what a structured runtime must not have hidden in a client. pamqp is the codec of both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import trio
from pamqp.commands import Connection as Commands

from runtime.dial import Dialer, wrap_tls
from runtime.errors import Refused, SessionLost
from runtime.services import open_services

from . import frames, methods
from .address import Address
from .channel import Channel, ChannelClosed
from .connection import CHANNEL_MAX, CLOSE_LIMIT, FRAME_MAX, HOPELESS, Connection
from .frames import ProtocolError

_READ_SIZE: Final = 256 * 1024
_WRITE_SIZE: Final = 1024 * 1024

_CAPABILITIES: Final = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}


class NativeConnection(Connection):
    """Made by `open_native_connection`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__()
        #: What is spoken over: a socket, or TLS on top of it.
        self._stream = stream
        self._parser = frames.FrameParser()
        self._outgoing: list[bytes] = []
        self._filled = trio.lowlevel.ParkingLot()
        self._control = Channel(self, 0)
        self._logged_in = False
        self._closing = False
        self._received_at = self._sent_at = trio.current_time()

    def send(self, data: bytes) -> None:
        """Queue bytes for the writer, which sends all that is queued at once. Raises `SessionLost` after the end."""
        self.check()
        self._outgoing.append(data)
        self._filled.unpark()

    # ---- the three tasks -----------------------------------------------------------------------------------------

    async def read(self) -> None:
        """The reader. Returns if we closed the connection; if the other side did it raises `SessionLost` or `Refused`."""
        try:
            error = await self._read_to_the_end()
            self.end(str(error))
        finally:
            self.end("the connection was closed")
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
        """The writer: everything that was queued goes out in one send, or in several of about `_WRITE_SIZE`."""
        try:
            while True:
                while not self._outgoing:
                    await self._filled.park()
                queued, self._outgoing = self._outgoing, []
                start = size = 0
                for i, data in enumerate(queued, 1):
                    size += len(data)
                    if size >= _WRITE_SIZE or i == len(queued):
                        self._sent_at = trio.current_time()
                        await self._stream.send_all(b"".join(queued[start:i]))
                        start, size = i, 0
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
            if now - self._sent_at >= interval / 2 and not self._outgoing and self.ended is None:
                self.send(frames.HEARTBEAT_FRAME)

    # ---- frames --------------------------------------------------------------------------------------------------

    def _take(self, frame: frames.Frame) -> None:
        if frame.kind == frames.HEARTBEAT:
            return
        if frame.channel:
            self.channel(frame.channel).take(frame)
            return
        method = frames.parse_method(frame.payload)
        if isinstance(method, Commands.Close):
            self.send(frames.method(0, Commands.CloseOk()))
            words = f"the server said: {method.reply_text}"
            raise Refused(words) if method.reply_code in HOPELESS and not self._logged_in else SessionLost(words)
        if isinstance(method, Commands.Blocked):
            self.block(method.reason or "it gave no reason")
        elif isinstance(method, Commands.Unblocked):
            self.block(None)
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
        self.frame_max = min(tune.frame_max or FRAME_MAX, FRAME_MAX)
        self.channel_max = min(tune.channel_max or CHANNEL_MAX, CHANNEL_MAX)
        beat = min(tune.heartbeat or heartbeat, heartbeat)
        self.send(frames.method(0, Commands.TuneOk(self.channel_max, self.frame_max, beat)))
        await control.call(methods.open_vhost(address.vhost), Commands.OpenOk)
        self._logged_in = True
        return beat

    async def close(self, limit: float) -> None:
        """Say good-bye and wait at most `limit` seconds, also under a cancel, for the server's."""
        self._closing = True
        if self.ended is None and self._logged_in:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
                try:
                    good_bye = frames.method(0, Commands.Close(200, "", 0, 0))
                    await self._control.call(good_bye, Commands.CloseOk)
                except (SessionLost, ChannelClosed):
                    pass
        self.end("the connection was closed")

    def _why(self, how_it_ended: str) -> str:
        return how_it_ended if self.ended is None else str(self.ended)

    def end(self, why: str) -> None:
        super().end(why)
        assert self.ended is not None
        self._control.end(self.ended)


@asynccontextmanager
async def open_native_connection(
    address: Address, dialer: Dialer, name: str, *, heartbeat: int, deadline: float
) -> AsyncIterator[Connection]:
    """See `OpenConnection`."""
    try:
        with trio.fail_at(deadline):
            socket = await dialer.connect(address.host, address.port)
            stream = socket if address.tls is None else await wrap_tls(socket, address.tls, address.host)
    except trio.TooSlowError:
        raise SessionLost(f"no connection to {address} in time", sent=False) from None
    try:
        async with open_services() as services:
            connection = NativeConnection(stream)
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
