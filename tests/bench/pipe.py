"""One connection through the proxy, and what happens to the bytes in it."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterable
from typing import Literal

import trio

Direction = Literal["up", "down"]

#: A direction of a connection holds at most CHUNKS * CHUNK bytes, however long they are delayed.
CHUNK = 16 * 1024
CHUNKS = 128


class Line:
    """One direction of all connections: up is to the broker, down is from it."""

    def __init__(self) -> None:
        self.swallows = False
        self.cut_in: int | None = None
        self.forwarded = 0
        self.swallowed = 0


class Conditions:
    """What all connections of a proxy go through at the moment."""

    def __init__(self) -> None:
        self.up = Line()
        self.down = Line()
        self.resets = 0
        self._delay = self._jitter = 0.0
        self._random = random.Random(0)
        self._changed = trio.lowlevel.ParkingLot()

    def delay(self, seconds: float, jitter: float) -> None:
        self._delay, self._jitter = seconds, jitter
        self._changed.unpark_all()

    async def lateness(self, read_at: float) -> None:
        """Wait as long as bytes read at `read_at` are to be late, even if that changes meanwhile."""
        luck = self._random.uniform(-1, 1)
        while (left := read_at + self._delay + luck * self._jitter - trio.current_time()) > 0:
            with trio.move_on_after(left):
                await self._changed.park()


class Pipe:
    """A client's connection and the one to the broker that goes with it."""

    def __init__(self, client: trio.SocketStream, conditions: Conditions) -> None:
        self._streams = [client]
        self._conditions = conditions
        self._scope = trio.CancelScope()
        self._holed: set[Line] = set()

    def reset(self) -> None:
        """RST to both ends, whatever was on its way."""
        if not self._scope.cancel_called:
            self._conditions.resets += 1
            self._abort()

    def has_an_open_hole(self) -> bool:
        """Bytes are missing in a direction that works again. TCP never delivers what comes after a hole."""
        return any(not line.swallows for line in self._holed)

    async def run(self, port: int) -> None:
        """Carry bytes until both ends closed the connection, or one reset it."""
        try:
            with self._scope:
                await self._run(port)
        finally:
            for stream in self._streams:
                stream.socket.close()

    async def _run(self, port: int) -> None:
        up, down = self._conditions.up, self._conditions.down
        [client] = self._streams
        if up.swallows or down.swallows:
            # Its handshake would not have got through: the broker never hears of it.
            self._holed = {line for line in (up, down) if line.swallows}
            await self._carry(up, client, None)
            return
        try:
            server = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            self._abort()
            return
        self._streams.append(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, up, client, server)
            nursery.start_soon(self._carry, down, server, client)

    async def _carry(self, line: Line, source: trio.SocketStream, sink: trio.SocketStream | None) -> None:
        into, out_of = trio.open_memory_channel[tuple[float, bytes | None]](CHUNKS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, line, out_of, sink)
            chunk: bytes | None = b"-"
            while chunk:
                try:
                    chunk = bytes(await source.receive_some(CHUNK))
                except trio.BrokenResourceError:
                    chunk = None  # it reset the connection
                await into.send((trio.current_time(), chunk))
            into.close()

    async def _deliver(
        self, line: Line, chunks: trio.MemoryReceiveChannel[tuple[float, bytes | None]], sink: trio.SocketStream | None
    ) -> None:
        back = self._conditions.down if line is self._conditions.up else self._conditions.up
        async for read_at, chunk in chunks:
            await self._conditions.lateness(read_at)
            if line.swallows or sink is None:
                line.swallowed += len(chunk or b"")
                self._holed.add(line)
                continue
            try:
                await self._pass_on(line, chunk, sink)
            except trio.BrokenResourceError:
                if not back.swallows:
                    self._abort()
                    return
                # The sink is gone, and the source cannot hear of it.
                sink = None

    async def _pass_on(self, line: Line, chunk: bytes | None, sink: trio.SocketStream) -> None:
        if chunk is None:
            self._abort()
        elif not chunk:
            await sink.send_eof()
        elif line.cut_in is not None and line.cut_in <= len(chunk):
            head, line.cut_in = chunk[: line.cut_in], None
            line.forwarded += len(head)
            if head:
                await sink.send_all(head)
            self.reset()
        else:
            if line.cut_in is not None:
                line.cut_in -= len(chunk)
            line.forwarded += len(chunk)
            await sink.send_all(chunk)

    def _abort(self) -> None:
        reset_by_closing(stream.socket for stream in self._streams)
        self._scope.cancel()


def reset_by_closing(sockets: Iterable[trio.socket.SocketType]) -> None:
    """From here on, closing them is a RST instead of an orderly FIN."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
