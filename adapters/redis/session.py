"""The session that meets the contract: one connection for commands, and one for each source's blocking reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from runtime.adapter import Held, Outgoing, Settlement
from runtime.delivery import Ack, Delivery, Reject, Release
from runtime.dial import Dialer
from runtime.services import open_services

from . import wire
from .connection import Address, Connection, open_connection
from .receiver import StreamReceiver
from .replies import ReplyError, publish_error, refusal
from .scripts import PARK, PARKED, REJECT, evaluate
from .streams import Stream
from .wire import Command


class RedisSession:
    """Leases are the server's: what one session received can be settled on the next."""

    def __init__(self, commands: Connection, address: Address, identity: str, dialer: Dialer, limit: float) -> None:
        self._commands = commands
        self._address = address
        self._identity = identity
        self._dialer = dialer
        self._limit = limit
        self._receivers: dict[Stream, StreamReceiver] = {}

    @asynccontextmanager
    async def open_source(
        self, source: Stream, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[StreamReceiver]:
        name = f"{self._identity} {source}"
        await self._create_group(source, again)
        async with open_connection(self._address, self._dialer, self._limit, name) as reads:
            receiver = StreamReceiver(source, self._identity, held, on_lost, self._commands, reads)
            self._receivers[source] = receiver
            try:
                async with open_services() as services:
                    await receiver.open()
                    services.start_soon(receiver.keep_leases, name=f"{source}: leases")
                    try:
                        yield receiver
                    finally:
                        await receiver.close()
            finally:
                del self._receivers[source]

    async def _create_group(self, source: Stream, again: bool) -> None:
        assert source.group is not None
        start = "0" if source.start == "beginning" or again else "$"
        try:
            await self._commands.ask("XGROUP", "CREATE", source.name, source.group, start, "MKSTREAM")
        except ReplyError as error:
            if error.code != "BUSYGROUP":  # it exists
                raise refusal(error, f"stream {source.name!r}") from None

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        acks: defaultdict[Stream, list[int]] = defaultdict(list)
        releases: defaultdict[Stream, list[int]] = defaultdict(list)
        commands: list[Command] = []
        answers: list[list[int]] = []  # which items each command settles
        for index, item in enumerate(batch):
            match item.outcome:
                case Ack():
                    acks[item.delivery.source].append(index)
                case Release():
                    releases[item.delivery.source].append(index)
                case Reject(reason):
                    commands.append(_reject(item.delivery, reason))
                    answers.append([index])
        for source, indices in acks.items():
            commands.append(["XACK", source.name, str(source.group), *(_id(batch[i]) for i in indices)])
            answers.append(indices)
        for source, indices in releases.items():
            commands.append(self._park(source, [batch[i] for i in indices]))
            answers.append(indices)
        results: list[Exception | None] = [None] * len(batch)
        for indices, reply in zip(answers, await self._commands.call(commands), strict=True):
            if isinstance(reply, ReplyError):
                for i in indices:
                    results[i] = reply
        now = trio.current_time()
        for source, indices in releases.items():
            if (receiver := self._receivers.get(source)) is not None:
                for i in indices:
                    receiver.expect(now + min(_after(batch[i]), source.lease))
        return results

    def _park(self, source: Stream, items: Sequence[Settlement]) -> Command:
        arguments: Command = []
        for item in items:
            assert isinstance(item.outcome, Release)
            idle = max(source.lease - item.outcome.after, 0.0)
            attempts = item.delivery.message.attempt - (not item.outcome.counted)
            arguments += (_id(item), int(idle * 1000), attempts)
        return evaluate(PARK, [source.name], str(source.group), self._identity, PARKED, *arguments)

    async def writable(self, paused: Callable[[str], None]) -> None:
        pass  # it never says that it is not

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        replies = await self._commands.call([wire.xadd(item.message, item.source) for item in batch])
        if any(isinstance(reply, ReplyError) and reply.means_elsewhere for reply in replies):
            # These callers hear of it; the next finds the connection gone, and the session with it.
            self._commands.hang_up("the server is no longer one to write to")
        return [
            publish_error(reply, item) if isinstance(reply, ReplyError) else None
            for item, reply in zip(batch, replies, strict=True)
        ]

    async def probe(self) -> None:
        await self._commands.call([["PING"]])


def _reject(delivery: Delivery, reason: str) -> Command:
    source: Stream = delivery.source
    entry = wire.fields(delivery.message)
    entry += ("rejected-reason", reason, "rejected-from", str(source), "rejected-attempt", delivery.message.attempt)
    return evaluate(REJECT, [source.name, f"{source.name}.rejected"], str(source.group), _receipt(delivery), *entry)


def _id(item: Settlement) -> bytes:
    return _receipt(item.delivery)


def _receipt(delivery: Delivery) -> bytes:
    assert isinstance(delivery.receipt, bytes)
    return delivery.receipt


def _after(item: Settlement) -> float:
    assert isinstance(item.outcome, Release)
    return item.outcome.after
