"""The connection of aio-pika, for those who rely on it: login, heartbeat, reader and writer are aiormq's, on asyncio.

Plain, never `connect_robust`: a cancel during one of its attempts does not end it. What is on top of the connection
(topology, confirms, consumers) is the native one's, so both behave alike. asyncio runs on a loop of this connection's
own, on top of Trio: its callbacks run in this thread, and hand frames over without a hop.

What asyncio does not offer is done around it. A cancel reaches an asyncio task once, and its end may take for ever, so
nobody here waits for one without a limit. The name is looked up and the socket connected by Trio. And at the end the
transport is aborted before anything is joined: a writer that drains into a frozen server ends in no other way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

import aiormq
import trio
import trio_asyncio  # type: ignore[import-untyped]
from aiormq.abc import ChannelFrame
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPError, AuthenticationError, InvalidFrameError, ProbableAuthenticationError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from yarl import URL

from runtime.dial import Dialer
from runtime.errors import Refused, SessionLost
from runtime.services import open_services

from .address import Address
from .channel import Channel
from .connection import CHANNEL_MAX, CLOSE_LIMIT, FRAME_MAX, Connection
from .frames import Confirm, Deliver, Return

logger = logging.getLogger("adapters.rabbitmq")

T = TypeVar("T")

#: Seconds between looks at whether the server takes messages: aiormq has no event for when it stops to.
_BLOCKED_INTERVAL: Final = 0.1
#: Seconds for asyncio's tasks to end once their transport is gone; they are cancelled again and again meanwhile.
_JOIN_LIMIT: Final = 0.2


class AioConnection(Connection):
    """Made by `open_aio_connection`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Address, name: str, heartbeat: int
    ) -> None:
        super().__init__()
        self._loop = loop
        # All of asyncio's code runs in it, whichever task of Trio's it is called from: it knows the loop.
        self._context = contextvars.copy_context()
        self._context.run(_OURS.set, True)
        self._address = address
        self._url = URL.build(
            scheme="amqp",
            user=address.username,
            password=address.password,
            host=address.host,
            port=address.port,
            path="/",
            query={"heartbeat": str(heartbeat), "name": name},
        )
        self._transport = _Transport(sock, address)
        self._amqp: aiormq.Connection | None = None
        self._outgoing: list[bytes] = []
        self._filled = asyncio.Event()
        self._over = trio.Event()
        self._closing = False

    def send(self, data: bytes) -> None:
        self.check()
        self._outgoing.append(data)
        self._filled.set()

    async def log_in(self) -> None:
        """Raises OSError, `SessionLost`, or `Refused` if the server says no."""
        address = self._address
        try:
            await self._call(self._connect())
        except (AuthenticationError, ProbableAuthenticationError) as refusal:
            raise Refused(f"the server said: {refusal}") from None
        except InvalidFrameError as strange:
            # What aiormq makes of a server that closes the connection instead of opening the virtual host.
            if "Connection.OpenOk" not in str(strange):
                raise SessionLost(f"this is no RabbitMQ: {strange}", sent=False) from None
            raise Refused(f"{address} does not let {address.username!r} into vhost {address.vhost!r}") from None
        except (AMQPError, EOFError, asyncio.CancelledError) as error:
            raise SessionLost(f"no login to {address}: {error}", sent=False) from None

    async def watch(self) -> NoReturn:
        """Raise `SessionLost` when the connection is over, unless we closed it."""
        await self._over.wait()
        if self._closing:
            await trio.sleep_forever()
        raise SessionLost(str(self.ended))

    async def close(self, limit: float) -> None:
        """Say good-bye for at most `limit` seconds, also under a cancel; then end whatever is left."""
        self._closing = True
        if self._amqp is not None and self.ended is None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
                try:
                    await self._call(self._amqp.close())
                except (Exception, asyncio.CancelledError) as error:
                    logger.debug("%s: closed without a good-bye: %r", self._address, error)  # aborted all the same
        self.end("the connection was closed")
        self._transport.abort()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _JOIN_LIMIT):
            while tasks := asyncio.all_tasks(self._loop):
                for task in tasks:
                    task.cancel()
                await trio.sleep(0.005)

    async def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on asyncio. A cancel is passed on, and not waited for."""
        task = self._loop.create_task(coroutine, context=self._context)
        done = trio.Event()
        task.add_done_callback(lambda _: done.set(), context=self._context)
        try:
            await done.wait()
        except trio.Cancelled:
            task.cancel()
            raise
        return task.result()

    # ---- on asyncio ----------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        amqp = _Amqp(self._url, loop=self._loop, transport_factory=self._transport)
        amqp.vhost = self._address.vhost  # in a URL not every name survives
        amqp.channels = _Inboxes(self)
        await amqp.connect()
        tune = amqp.connection_tune
        self.frame_max, self.channel_max = tune.frame_max or FRAME_MAX, tune.channel_max or CHANNEL_MAX
        self._amqp = amqp
        amqp.closing.add_done_callback(self._closed)
        for task in (self._write(amqp), self._watch_blocking(amqp)):
            amqp.create_task(task)

    async def _write(self, amqp: aiormq.Connection) -> NoReturn:
        """All that is queued goes out in one write, and the next when the transport has room again."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            data, self._outgoing = b"".join(self._outgoing), []
            drained = self._loop.create_future()
            await amqp.write_queue.put(ChannelFrame(payload=data, should_close=False, drain_future=drained))
            await drained

    async def _watch_blocking(self, amqp: aiormq.Connection) -> NoReturn:
        while True:
            await asyncio.sleep(_BLOCKED_INTERVAL)
            try:
                async with asyncio.timeout(0.01):
                    await amqp.ready()
                why = None
            except TimeoutError:
                why = "it is short of memory or disk"
            if why != self.blocked:
                self.block(why)

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.end(
            f"the connection broke: {str(error) or type(error).__name__}"
            if error
            else "the server closed the connection"
        )
        self._over.set()


class _Amqp(aiormq.Connection):
    #: It gives the server up after this many heartbeats, each with a second added; three by default.
    HEARTBEAT_GRACE_MULTIPLIER = 2


class _Transport(TransportFactory):
    """asyncio's streams on a socket that is connected already."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self._socket = sock
        self._address = address
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tls = self._address.tls
        host = None if tls is None else self._address.host
        reader, self._writer = await asyncio.open_connection(sock=self._socket, ssl=tls, server_hostname=host)
        return reader, self._writer

    def abort(self) -> None:
        """No more bytes in either direction, now."""
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            # It may be in the hands of a TLS handshake, which ends with the socket's last byte.
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was faster


class _Inboxes(dict[int, Any]):
    """Where aiormq looks for the channel that a frame is for. Which there are is not its business here."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def get(self, number: int, default: Any = None) -> Any:
        return _Inbox(self._connection.channel(number))


class _Inbox:
    """What a frame is put into."""

    def __init__(self, channel: Channel) -> None:
        self.frames = self
        self._channel = channel

    async def put(self, weighted: tuple[int, Any]) -> None:
        channel, frame = self._channel, weighted[1]
        match frame:
            case Basic.Deliver():
                tag, redelivered = frame.delivery_tag or 0, bool(frame.redelivered)
                consumer, exchange, key = frame.consumer_tag or "", frame.exchange or "", frame.routing_key or ""
                channel.take_content(Deliver(consumer, tag, redelivered, exchange, key))
            case ContentHeader():
                channel.take_header(frame.body_size or 0, frame.properties)
            case ContentBody():
                channel.take_body(frame.value)
            case Basic.Ack() | Basic.Nack():
                confirm = Confirm(frame.delivery_tag or 0, bool(frame.multiple))
                channel.on_confirm(confirm, isinstance(frame, Basic.Ack))
            case Basic.Return():
                channel.take_content(Return(frame.reply_text or "", frame.exchange or "", frame.routing_key or ""))
            case _:
                channel.take_answer(frame)


@asynccontextmanager
async def open_aio_connection(
    address: Address, dialer: Dialer, name: str, *, heartbeat: int, deadline: float
) -> AsyncIterator[Connection]:
    """See `OpenConnection`."""
    try:
        with trio.fail_at(deadline):
            stream = await dialer.connect(address.host, address.port)
    except trio.TooSlowError:
        raise SessionLost(f"no connection to {address} in time", sent=False) from None
    # From Trio's hands to asyncio's: the same socket, with nothing of Trio around it.
    sock = socket.socket(fileno=stream.socket.detach())
    try:
        sock.setblocking(False)
        async with trio_asyncio.open_loop() as loop:
            loop.set_exception_handler(_hear)
            connection = AioConnection(loop, sock, address, name, heartbeat)
            try:
                async with open_services() as services:
                    try:
                        with trio.fail_at(deadline):
                            await connection.log_in()
                    except trio.TooSlowError:
                        raise SessionLost(f"no answer from {address} in time", sent=False) from None
                    services.start_soon(connection.watch, name=f"{name}: watch of asyncio")
                    yield connection
            finally:
                await connection.close(CLOSE_LIMIT)
    finally:
        sock.close()


# ---- what asyncio's world writes to the log ------------------------------------------------------------------------

#: Set in the context of every connection of ours.
_OURS: Final[contextvars.ContextVar[bool]] = contextvars.ContextVar("adapters.rabbitmq.aio", default=False)


def _hear(loop: asyncio.AbstractEventLoop, trouble: dict[str, Any]) -> None:
    """What no asyncio task waited for: the connection's end says it too, and the supervisor tells that."""
    logger.debug("asyncio: %s", trouble.get("message"), exc_info=trouble.get("exception"))


def _is_a_strangers(record: logging.LogRecord) -> bool:
    return record.levelno < logging.INFO or not _OURS.get()


# One line for a lost connection is enough, and the supervisor writes it. Other users of aiormq keep theirs.
for _name in ("aiormq.connection", "asyncio"):
    logging.getLogger(_name).addFilter(_is_a_strangers)
