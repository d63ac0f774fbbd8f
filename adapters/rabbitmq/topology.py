"""Declaring what a source or a destination needs: exchanges, the queue, its bindings."""

from __future__ import annotations

from typing import Final

from pamqp.commands import Exchange as ExchangeCommands, Queue as QueueCommands

from . import methods
from .channel import Channel, ChannelClosed
from .connection import Connection
from .queues import Exchange, Queue

#: Names that begin so are the server's own: what they name exists, or cannot be created.
_RESERVED: Final = "amq."
#: RESOURCE_LOCKED and PRECONDITION_FAILED: it exists, and is not as it was declared.
_EXISTS: Final = frozenset({405, 406})
#: Seconds for closing a channel that only declared something.
_CLOSE_LIMIT: Final = 0.1


async def declare(connection: Connection, what: Queue | Exchange) -> None:
    """Create what is missing of `what`, on a channel of its own: if the server says no, nothing else is hurt.

    Raises `ChannelClosed` with the server's words if something is there and is otherwise, or must not be touched. A
    cancel may leave a part of it declared.
    """
    channel = await connection.open_channel()
    try:
        for exchange in what.exchanges if isinstance(what, Queue) else [what]:
            await _declare_exchange(channel, exchange)
        if isinstance(what, Queue):
            if not await _declare_queue(channel, what) and what.bound:
                channel = await connection.open_channel()
            await _bind(channel, what)
    finally:
        await channel.close(_CLOSE_LIMIT)


async def _declare_exchange(channel: Channel, exchange: Exchange) -> None:
    if not exchange.name.startswith(_RESERVED):
        frame = methods.declare_exchange(channel.number, exchange.name, exchange.type, durable=exchange.durable)
        await channel.call(frame, ExchangeCommands.DeclareOk)


async def _declare_queue(channel: Channel, queue: Queue) -> bool:
    """Whether the channel has survived it."""
    if queue.name.startswith(_RESERVED):
        return True
    try:
        frame = methods.declare_queue(channel.number, queue.name, durable=queue.durable, arguments=queue.arguments)
        await channel.call(frame, QueueCommands.DeclareOk)
    except ChannelClosed as refusal:
        if queue.is_bare and refusal.code in _EXISTS:
            return False  # taken as it is found
        raise
    return True


async def _bind(channel: Channel, queue: Queue) -> None:
    for binding in queue.bound:
        frame = methods.bind_queue(channel.number, queue.name, binding.exchange.name, binding.key, binding.arguments)
        await channel.call(frame, QueueCommands.BindOk)
