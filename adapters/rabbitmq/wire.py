"""Message ↔ AMQP properties. The format is described in the package's docstring and does not change."""

from __future__ import annotations

import datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
from pamqp.commands import Basic

from runtime.message import NO_HEADERS, Message, new_message_id

from .queues import Exchange, Queue
from .routing import routing_key

#: Names that are not a user's header on the wire; a header that is called so travels as `_h:NAME`.
_KEY: Final = "_key"
_TIME: Final = "_time"
_DEADLINE: Final = "_deadline"
_OURS: Final = frozenset({_KEY, _TIME, _DEADLINE})
_ESCAPE: Final = "_h:"
#: The server's count of earlier deliveries, in quorum queues.
_DELIVERY_COUNT: Final = "x-delivery-count"

TRANSIENT: Final = 1
PERSISTENT: Final = 2


def properties(message: Message, destination: Queue | Exchange) -> Basic.Properties:
    """The properties that carry `message` to `destination`; the rest of it is the body and the routing key."""
    headers: dict[str, Any] = {}
    for name, value in message.headers.items():
        headers[_ESCAPE + name if name in _OURS or name.startswith(_ESCAPE) else name] = value
    # A routing key that is the message's key says it already.
    if message.key is not None and (isinstance(destination, Queue) or routing_key(destination, message) != message.key):
        headers[_KEY] = message.key
    timestamp = None
    if message.timestamp is not None:
        headers[_TIME] = repr(message.timestamp)
        timestamp = _moment(message.timestamp)
    if message.deadline is not None:
        headers[_DEADLINE] = repr(message.deadline)
    expiration = destination.expiration
    return Basic.Properties(
        content_type=message.content_type,
        headers=headers or None,
        delivery_mode=PERSISTENT if destination.persistent else TRANSIENT,
        priority=destination.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=None if expiration is None else str(round(expiration * 1000)),
        message_id=message.id,
        timestamp=timestamp,
    )


def message(queue: str, found: Basic.Properties, body: bytes, *, exchange: str, key: str, redelivered: bool) -> Message:
    """The message in a delivery, whoever sent it.

    Args:
      exchange, key: what it was published to and with.
      redelivered: the server says that somebody had it before.
    """
    table = dict(found.headers) if found.headers else {}
    attempt = _attempt(table.pop(_DELIVERY_COUNT, None), redelivered)
    own_key = table.pop(_KEY, None)
    time = _number(table.pop(_TIME, None))
    deadline = _number(table.pop(_DEADLINE, None))
    if time is None and found.timestamp is not None:
        time = found.timestamp.timestamp()
    headers = {name.removeprefix(_ESCAPE): _text(value) for name, value in table.items()}
    return Message(
        body=body,
        # A stranger's delivery has no name that the next one of the same message would have, too.
        id=found.message_id or new_message_id(),
        destination=queue,
        key=_text(own_key) if own_key is not None else key if exchange else None,
        headers=MappingProxyType(headers) if headers else NO_HEADERS,
        content_type=found.content_type,
        reply_to=found.reply_to,
        correlation_id=found.correlation_id,
        timestamp=time,
        deadline=deadline,
        attempt=attempt,
    )


def _attempt(delivery_count: object, redelivered: bool) -> int:
    if isinstance(delivery_count, int):
        return delivery_count + 1
    return 2 if redelivered else 1


def _moment(seconds: float) -> datetime.datetime | None:
    # Whole seconds are what the property can say; who reads `_time` gets the rest.
    try:
        return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return None


# A foreign program may put anything anywhere; only the body keeps its bytes whatever they are.
def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return msgspec.json.encode(value, enc_hook=str).decode()


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
