"""The session that meets the contract: one connection that consumes, with a channel for each queue, and one that publishes.

Two, because a server short of memory or disk stops reading from a connection that publishes, acks and all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import msgspec
import trio

from runtime.adapter import Held, Outgoing, Settlement, rejected_headers
from runtime.backoff import is_hopeless
from runtime.delivery import Ack, Delivery, Reject, Release
from runtime.dial import Dialer
from runtime.errors import Refused, SessionLost, describe

from .address import Address
from .channel import Channel, ChannelClosed
from .connection import Connection, OpenConnection
from .publisher import Publisher
from .queues import Queue, rejected
from .receiver import QueueReceiver, Taken
from .topology import declare

#: Seconds until a message is tried again that could not be set aside.
_SET_ASIDE_AGAIN: Final = 1.0
#: Of the publish limit: so long an unconfirmed publish is waited for while the server is blocked. After all of it the
#: runtime would take the session for dead, and its consumers with it.
_PATIENCE: Final = 0.9
#: Characters of a reason that are kept: headers must fit into one frame.
_MAX_REASON: Final = 1000


class RabbitSession:
    """Leases are the session's: the server takes back what it did not settle."""

    def __init__(self, consuming: Connection, control: Channel, publisher: Publisher, publish_limit: float) -> None:
        self._consuming = consuming
        self._control = control
        self._publisher = publisher
        self._patience = publish_limit * _PATIENCE

    @asynccontextmanager
    async def open_source(
        self, source: Queue, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AsyncIterator[QueueReceiver]:
        try:
            await declare(self._consuming, source)
        except ChannelClosed as refusal:
            raise Refused(f"queue {source.name!r} refused: {refusal}") from None
        receiver = QueueReceiver(source, await self._consuming.open_channel(), held, on_lost)
        async with trio.open_nursery() as nursery:
            try:
                await receiver.open(prefetch)
                nursery.start_soon(receiver.watch_lag, name=f"{source}: lag")
                yield receiver
            finally:
                nursery.cancel_scope.cancel()
                await receiver.close()

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        """None for an item says that the server has taken it: each channel is fenced behind its acks.

        A release is not sent: the message stays unsettled here until it is due, unless nobody will take it here. A reject goes the way that
        the queue's own dead-letter exchange says, or else a copy is confirmed by NAME.rejected before the original is
        acked; while that cannot be, the item's error says so, and the message is tried again.
        """
        results: list[Exception | None] = [None] * len(batch)
        shares: defaultdict[QueueReceiver, list[int]] = defaultdict(list)
        for i, item in enumerate(batch):
            shares[_taken(item).receiver].append(i)
        aside: list[int] = []
        for receiver, share in shares.items():
            try:
                aside += _settle(receiver, batch, share)
            except (ChannelClosed, SessionLost) as loss:
                self._fail(results, share, loss)
        if aside:
            await self._set_aside(batch, [i for i in aside if results[i] is None], results)
        await self._fence(shares, results)
        return results

    async def _set_aside(
        self, batch: Sequence[Settlement], indices: Sequence[int], results: list[Exception | None]
    ) -> None:
        copies = [_rejected_copy(batch[i]) for i in indices]
        errors: Sequence[Exception | None]
        if (why := self._publisher.blocked) is not None:
            errors = [SessionLost(f"RabbitMQ takes no messages for now: {why}")] * len(copies)
        else:
            errors = await self._publisher.publish(copies, patience=0)
        for i, error in zip(indices, errors, strict=True):
            taken = _taken(batch[i])
            try:
                if error is None:
                    taken.receiver.ack([taken.deliver.tag])
                else:
                    taken.receiver.release(taken, batch[i].delivery.message, _SET_ASIDE_AGAIN, counted=False)
                    results[i] = error
            except (ChannelClosed, SessionLost) as loss:
                self._fail(results, [i], loss)

    async def _fence(self, shares: dict[QueueReceiver, list[int]], results: list[Exception | None]) -> None:
        """Wait until the server has taken what was sent on each channel; all are asked before one is waited for."""
        fences = []
        for receiver, share in shares.items():
            try:
                fences.append((receiver.channel, share, receiver.channel.begin_fence()))
            except (ChannelClosed, SessionLost) as loss:
                self._fail(results, share, loss)
        for channel, share, fence in fences:
            try:
                await channel.end_fence(fence)
            except (ChannelClosed, SessionLost) as loss:
                self._fail(results, share, loss)

    def _fail(self, results: list[Exception | None], share: Sequence[int], loss: Exception) -> None:
        """Its channel is over, and its leases with it; raises if the session is."""
        if self._consuming.ended is not None:
            raise SessionLost(str(self._consuming.ended))
        for i in share:
            results[i] = results[i] or SessionLost(f"its channel is closed, so it will be delivered again: {loss}")

    async def writable(self, paused: Callable[[str], None]) -> None:
        await self._publisher.writable(paused)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        return await self._publisher.publish(batch, self._patience)

    async def probe(self) -> None:
        """A round trip on each connection. The server's heartbeats come from another of its processes than its answers."""
        await self._control.end_fence(self._control.begin_fence())
        await self._publisher.probe()


def _settle(receiver: QueueReceiver, batch: Sequence[Settlement], share: Sequence[int]) -> list[int]:
    """Queue what can be said at once; returns those that are to be set aside with a copy."""
    acks: list[int] = []
    aside: list[int] = []
    for i in share:
        taken = _taken(batch[i])
        match batch[i].outcome:
            case Ack():
                acks.append(taken.deliver.tag)
            case Release(after, counted):
                receiver.release(taken, batch[i].delivery.message, after, counted=counted)
            case Reject() if receiver.queue.dead_letter_exchange is not None:
                receiver.reject(taken.deliver.tag)
            case Reject():
                aside.append(i)
    if acks:
        receiver.ack(acks)
    return aside


def _taken(item: Settlement) -> Taken:
    receipt = item.delivery.receipt
    assert isinstance(receipt, Taken)
    return receipt


def _rejected_copy(item: Settlement) -> Outgoing:
    assert isinstance(item.outcome, Reject)
    message, queue = item.delivery.message, item.delivery.source
    headers = rejected_headers(message, item.outcome.reason[:_MAX_REASON], str(queue))
    headers["rejected-attempt"] = str(message.attempt)
    return Outgoing(msgspec.structs.replace(message, headers=headers), rejected(queue))


@asynccontextmanager
async def open_session(
    open_connection: OpenConnection,
    addresses: Sequence[Address],
    identity: str,
    dialer: Dialer,
    *,
    heartbeat: int,
    connect_limit: float,
    publish_limit: float,
) -> AsyncIterator[RabbitSession]:
    """Connect to the first node that lets us in. See `runtime.adapter.OpenSession`."""
    async with AsyncExitStack() as stack:
        share, failures = connect_limit / len(addresses), []
        for address in addresses:
            deadline = trio.current_time() + share

            async def connect(what: str, to: Address = address, by: float = deadline) -> Connection:
                opening = open_connection(to, dialer, f"{identity} {what}", heartbeat=heartbeat, deadline=by)
                return await stack.enter_async_context(opening)

            try:
                consuming = await connect("consuming")
                break
            except Exception as error:
                if len(addresses) == 1 or is_hopeless(error):
                    raise
                failures.append(f"{address}: {describe(error)}")
        else:
            raise SessionLost(f"no node lets us in: {'; '.join(failures)}", sent=False)
        publisher = Publisher(await connect("publishing"), consuming)
        try:
            with trio.fail_at(deadline):
                await publisher.open()
                control = await consuming.open_channel()
        except trio.TooSlowError:
            raise SessionLost(f"no answer from {address} in time", sent=False) from None
        yield RabbitSession(consuming, control, publisher, publish_limit)
