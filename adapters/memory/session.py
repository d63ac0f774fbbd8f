"""The session that meets the contract. Leases are the session's: what it took and did not settle goes back with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from runtime.adapter import Held, Outgoing, Settlement, rejected_headers
from runtime.delivery import Ack, Delivery, Reject, Release
from runtime.errors import SessionLost

from .server import Entry, Group, MemoryServer
from .topics import Topic


class MemorySession:
    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._receivers: dict[Topic, MemoryReceiver] = {}

    @asynccontextmanager
    async def open_source(
        self, source: Topic, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[MemoryReceiver]:
        await trio.lowlevel.checkpoint()
        group = self._server.group(source.name, source.group, source.start)
        receiver = self._receivers[source] = MemoryReceiver(source, group)
        try:
            yield receiver
        finally:
            del self._receivers[source]
            receiver.close()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        await trio.lowlevel.checkpoint()
        return [self._settle(item) for item in batch]

    def _settle(self, item: Settlement) -> Exception | None:
        source: Topic = item.delivery.source
        receiver = self._receivers.get(source)
        entry = receiver.taken.pop(item.delivery.receipt, None) if receiver is not None else None
        if receiver is None or entry is None:
            return SessionLost("its session is over, so it will be delivered again")
        match item.outcome:
            case Ack():
                pass
            case Release(after, counted):
                entry.attempts -= not counted
                if after > 0:
                    receiver.group.delay(entry, trio.current_time() + after)
                else:
                    receiver.group.put_back([entry])
            case Reject(reason):
                message = item.delivery.message
                headers = rejected_headers(message, reason, str(source))
                self._server.publish(msgspec.structs.replace(message, headers=headers), f"{source.name}.rejected")
        return None

    async def writable(self, paused: Callable[[str], None]) -> None:
        pass  # it never says that it is not

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        await trio.lowlevel.checkpoint()
        for outgoing in batch:
            self._server.publish(outgoing.message, outgoing.source.name)
        return [None] * len(batch)

    async def probe(self) -> None:
        await trio.lowlevel.checkpoint()


class MemoryReceiver:
    def __init__(self, source: Topic, group: Group) -> None:
        self.group = group
        #: What was received and not settled, by receipt.
        self.taken: dict[object, Entry] = {}
        self._source = source

    @property
    def lag(self) -> int:
        return len(self.group)

    async def receive(self, most: int) -> Sequence[Delivery]:
        await trio.lowlevel.checkpoint()
        while not (entries := self.group.take(most, trio.current_time())):
            with trio.move_on_at(self.group.next_due()):
                await self.group.arrived.park()
        return [self._deliver(entry) for entry in entries]

    def _deliver(self, entry: Entry) -> Delivery:
        # Handed out again it is another delivery: one that was lost may still be running.
        receipt = entry.sequence, entry.attempts
        self.taken[receipt] = entry
        message = entry.message
        if entry.attempts != message.attempt:
            message = msgspec.structs.replace(message, attempt=entry.attempts)
        return Delivery(message, receipt, self._source)

    def close(self) -> None:
        self.group.put_back(list(self.taken.values()))
        self.taken.clear()
        if not self.group.arrived:
            self.group.hurry()  # nobody is left to wait, and the next run has another clock
