"""One ordered RESP conversation over a Trio stream: pipelines go out in one send, replies are matched in order.

Not redis-py: it has no Trio support, and what it adds over hiredis (typed replies, retries, time-outs) is what a
structured runtime must not have hidden in a client.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis
import trio

from runtime.dial import Dialer, wrap_tls
from runtime.errors import Refused, SessionLost
from runtime.services import open_services

from .replies import ReplyError, refusal
from .wire import Argument, Command

Reply = Any

_READ_SIZE: Final = 256 * 1024
_INCOMPLETE: Final = object()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and how to be let in: a host and a port, or the path of a Unix socket."""

    host: str
    port: int
    path: str | None
    database: int
    username: str | None
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Connection:
    """Made by `open_connection`. Any number of tasks may `call`; their pipelines are answered in the order sent."""

    def __init__(self, stream: trio.abc.Stream, socket: trio.SocketStream) -> None:
        #: What is spoken over: the socket itself, or TLS on top of it.
        self._stream = stream
        self._socket = socket
        self._parser = hiredis.Reader(replyError=ReplyError, notEnoughData=_INCOMPLETE)
        self._sending = trio.Lock()
        self._calls: deque[_Call] = deque()
        #: Why nothing can be sent any more.
        self._ended: str | None = None
        self._hung_up = False

    async def call(self, commands: Sequence[Command]) -> list[Reply]:
        """Send all commands in one write and return their replies; an error reply is returned, not raised.

        Raises `SessionLost` when the connection ends first, with ``sent=False`` if it had ended before the write. A
        cancel in the middle of the write hangs up: half a command cannot be taken back. A cancel after it leaves the
        replies to the reader, which drops them in their turn; nobody else ever gets them.
        """
        if not commands:
            return []
        packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
        call = _Call(len(commands))
        try:
            self._sending.acquire_nowait()  # spares a round through the scheduler
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            if self._ended is not None:
                raise SessionLost(self._ended, sent=False)
            self._calls.append(call)
            await self._stream.send_all(packed)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader knows more: what the server said before it hung up
        except trio.Cancelled:
            self.hang_up("a write was cut off")
            raise
        finally:
            self._sending.release()
        await call.answered.wait()
        if call.missing:
            raise SessionLost(str(self._ended))
        return call.replies

    async def ask(self, *command: Argument) -> Reply:
        """One command. Raises `ReplyError` if the reply is an error."""
        (reply,) = await self.call([list(command)])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def read(self) -> None:
        """The reader: hands replies to their callers. Returns after `hang_up`; if the other side ended the connection
        it raises `SessionLost`."""
        try:
            while True:
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    raise SessionLost(self._why("the server closed the connection"))
                self._parser.feed(bytes(data))
                while (reply := self._parser.gets()) is not _INCOMPLETE:
                    if not self._calls:
                        # What a server says to one connection too many, before it hangs up.
                        raise SessionLost(self._why(f"the server said: {reply}"))
                    if self._calls[0].take(reply):
                        self._calls.popleft()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if not self._hung_up:
                raise SessionLost(self._why(f"the connection broke: {error.__cause__ or error}")) from error
        except hiredis.ProtocolError as error:
            raise SessionLost(f"this is no Redis server: {error}") from error
        finally:
            self._end("the connection was closed")

    def hang_up(self, why: str) -> None:
        """Close the socket from our side, now. Idempotent; the reader ends quietly."""
        self._hung_up = True
        self._end(why)
        self._socket.socket.close()

    def _why(self, how_it_ended: str) -> str:
        """Why the connection is over: first what was known before, then the server's last words, then how."""
        words = self._calls[0].replies if self._calls else []
        said = f"the server said: {words[-1]}" if words and isinstance(words[-1], ReplyError) else how_it_ended
        self._ended = self._ended or said
        return self._ended

    def _end(self, why: str) -> None:
        """No more calls; those outstanding hear of it."""
        if self._ended is None:
            self._ended = why
        for call in self._calls:
            call.answered.set()
        self._calls.clear()


class _Call:
    """One pipeline that waits for its replies."""

    __slots__ = ("answered", "missing", "replies")

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self.replies: list[Reply] = []
        self.answered = trio.Event()

    def take(self, reply: Reply) -> bool:
        """Whether this was the last one."""
        self.replies.append(reply)
        self.missing -= 1
        if not self.missing:
            self.answered.set()
        return not self.missing


@asynccontextmanager
async def open_connection(address: Address, dialer: Dialer, limit: float, name: str) -> AsyncIterator[Connection]:
    """Connect and log in within `limit` seconds; `name` is what CLIENT LIST will show.

    Raises OSError or `SessionLost` if that fails, `Refused` if the server says no. While the block runs, the end of the
    connection cancels it and raises `SessionLost`. Leaving it closes the socket at once.
    """
    deadline = trio.current_time() + limit
    try:
        with trio.fail_at(deadline):
            if address.path is not None:
                socket = await trio.open_unix_socket(address.path)
            else:
                socket = await dialer.connect(address.host, address.port)
            stream = socket if address.tls is None else await wrap_tls(socket, address.tls, address.host)
    except trio.TooSlowError:
        raise SessionLost(f"no connection to {address} within {limit:g} s", sent=False) from None
    try:
        async with open_services() as services:
            connection = Connection(stream, socket)
            services.start_soon(connection.read, name=f"{name}: reader")
            try:
                with trio.fail_at(deadline):
                    await _log_in(connection, address, name)
            except trio.TooSlowError:
                raise SessionLost(f"no answer from {address} within {limit:g} s", sent=False) from None
            yield connection
    finally:
        await trio.aclose_forcefully(stream)


async def _log_in(connection: Connection, address: Address, name: str) -> None:
    commands: list[Command] = []
    if address.password is not None:
        credentials = [address.password] if address.username is None else [address.username, address.password]
        commands.append(["AUTH", *credentials])
    commands.append(["CLIENT", "SETNAME", name.replace(" ", "_")])
    if address.database:
        commands.append(["SELECT", address.database])
    commands.append(["PING"])
    *replies, role = await connection.call([*commands, ["ROLE"]])
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise refusal(reply, str(address))
    # Who may not ask for the role finds out with the first write.
    if not isinstance(role, ReplyError) and role[0] != b"master":
        raise Refused(f"{address} is a read-only {role[0].decode()}: give the address of the master")
