"""A TCP proxy between a test and its broker that can be told, at any time, to misbehave.

    async with open_proxy(server.port) as proxy:
        ...                     # connect to proxy.port
        proxy.cut_after(10)     # ten more bytes from the broker, then a reset in the middle of a frame
        proxy.swallow()         # nothing gets through, and nobody is told
        proxy.forward()         # all is well again

Every method acts at once. What it did is seen in `resets`, `swallowed` and the other counters.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from .pipe import Conditions, Direction, Pipe

HOST = "127.0.0.1"
BACKLOG = 512


@asynccontextmanager
async def open_proxy(target_port: int, *, at: int = 0) -> AsyncIterator[Proxy]:
    """A proxy to `target_port` that forwards, until it is told otherwise. It is gone when the block ends.

    `at` is its own port, if that was promised to somebody; a free one by default.
    """
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target_port, nursery, at)
        try:
            proxy.forward()
            yield proxy
        finally:
            proxy.close()
            nursery.cancel_scope.cancel()


class Proxy:
    """Listens on `port`, which stays the same through everything."""

    def __init__(self, target_port: int, nursery: trio.Nursery, port: int) -> None:
        #: Connections accepted so far.
        self.connections = 0
        self._target_port = target_port
        self._nursery = nursery
        self._conditions = Conditions()
        self._pipes: set[Pipe] = set()
        self._listener: trio.SocketListener | None = None
        self._silent: list[socket.socket] = []
        # Bound and never listening: while we refuse, nobody else is given the port, nor connects to itself from it.
        self._claim = _bound(port)
        self.port = int(self._claim.getsockname()[1])

    # What it can be told

    def forward(self) -> None:
        """Undo everything. A connection that lost bytes is reset: TCP delivers nothing behind a hole."""
        self.delay(0)
        self._conditions.up.cut_in = self._conditions.down.cut_in = None
        self.swallow(up=False, down=False)

    def refuse(self) -> None:
        """Refuse new connections. Those that are open live on: see `reset`."""
        self._close_the_gate()

    def ignore(self) -> None:
        """Answer no attempt to connect, as behind a firewall that drops. Open connections live on.

        Attempts go on by themselves: the kernel tries again after 1, 3, 7 s and may succeed after `forward`.
        """
        self._close_the_gate()
        # A full queue of connections that nobody accepts: the kernel drops what comes next.
        full = _bound(self.port)
        self._silent.append(full)
        full.listen(0)
        self._silent.append(socket.create_connection((HOST, self.port), timeout=5))

    def reset(self) -> None:
        """RST to both ends of every open connection, now. New ones are welcome."""
        for pipe in self._pipes:
            pipe.reset()

    def cut_after(self, n_bytes: int, direction: Direction = "down") -> None:
        """Forward `n_bytes` more in that direction, then reset the connection that carried the last of them; once."""
        line = self._conditions.down if direction == "down" else self._conditions.up
        line.cut_in = n_bytes

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """A black hole: read and drop what goes in these directions, end of stream included. Forward in the others.

        New connections are accepted and never answered, whichever direction it is: they would lack their handshake.
        """
        self._conditions.up.swallows, self._conditions.down.swallows = up, down
        self._open_the_gate()
        for pipe in self._pipes:
            if pipe.has_an_open_hole():
                pipe.reset()

    def delay(self, seconds: float, jitter: float = 0) -> None:
        """Hold back every chunk for `seconds` ± `jitter`, in order. 0 lets go of what is held back."""
        self._conditions.delay(seconds, jitter)

    def close(self) -> None:
        """Let go of the port."""
        self._close_the_gate()
        self._claim.close()

    # What proves that it happened

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._pipes)

    @property
    def resets(self) -> int:
        """Connections that the proxy reset. One that the broker reset, or refused, is passed on and not counted."""
        return self._conditions.resets

    @property
    def forwarded_up(self) -> int:
        return self._conditions.up.forwarded

    @property
    def forwarded_down(self) -> int:
        return self._conditions.down.forwarded

    @property
    def swallowed_up(self) -> int:
        return self._conditions.up.swallowed

    @property
    def swallowed_down(self) -> int:
        return self._conditions.down.swallowed

    @property
    def swallowed(self) -> int:
        """Bytes dropped."""
        return self.swallowed_up + self.swallowed_down

    @property
    def knocking(self) -> int:
        """Attempts to connect that wait for an answer now, from any process of this machine."""
        there, syn_sent = f"0100007F:{self.port:04X}", "02"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[2] == there and row[3] == syn_sent for row in rows)

    def refuses(self) -> bool:
        """Try it: does it refuse to be connected to?"""
        with socket.socket() as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex((HOST, self.port)) == errno.ECONNREFUSED

    # The gate

    def _open_the_gate(self) -> None:
        if self._listener is None:
            self._close_the_gate()
            listening = _bound(self.port)
            listening.listen(BACKLOG)
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            self._nursery.start_soon(self._accept, self._listener)

    def _close_the_gate(self) -> None:
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None
        while self._silent:
            self._silent.pop().close()

    async def _accept(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            self.connections += 1
            pipe = Pipe(stream, self._conditions)
            self._pipes.add(pipe)
            self._nursery.start_soon(self._run, pipe)

    async def _run(self, pipe: Pipe) -> None:
        try:
            await pipe.run(self._target_port)
        finally:
            self._pipes.discard(pipe)


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((HOST, port))
    return bound
