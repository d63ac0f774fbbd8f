"""Records ↔ messages. The format is described in the package's docstring and does not change."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple, cast

import confluent_kafka

from runtime.message import NO_HEADERS, Message

_TEXTS: Final = {"_id": "id", "_type": "content_type", "_reply_to": "reply_to", "_correlation": "correlation_id"}
_TIMES: Final = {"_time": "timestamp", "_deadline": "deadline"}
_JSON: Final = "application/json"
_NULL: Final = b"null"

Headers = list[tuple[str, str | bytes | None]]


class Record(NamedTuple):
    """What a producer is given, beside the topic."""

    value: bytes | None
    key: bytes | None
    headers: Headers
    #: Milliseconds since the epoch; 0 is for now.
    timestamp: int


def record(message: Message) -> Record:
    headers: Headers = [("_id", message.id.encode())]
    if message.content_type is not None:
        headers.append(("_type", message.content_type.encode()))
    if message.reply_to is not None:
        headers.append(("_reply_to", message.reply_to.encode()))
    if message.correlation_id is not None:
        headers.append(("_correlation", message.correlation_id.encode()))
    timestamp = 0
    if message.timestamp is not None:
        timestamp = int(message.timestamp * 1000)
        if timestamp / 1000 != message.timestamp or timestamp <= 0:
            headers.append(("_time", repr(message.timestamp).encode()))
    if message.deadline is not None:
        headers.append(("_deadline", repr(message.deadline).encode()))
    if message.attempt > 1:
        headers.append(("_attempt", b"%d" % message.attempt))
    for name, value in message.headers.items():
        headers.append((f"_h:{name}" if name.startswith("_") else name, value.encode()))
    key = None if message.key is None else message.key.encode()
    is_tombstone = message.body == _NULL and message.content_type == _JSON
    return Record(None if is_tombstone else message.body, key, headers, max(timestamp, 0))


def message(topic: str, raw: confluent_kafka.Message) -> Message:
    """The message in a record, whoever wrote it."""
    kind, timestamp = raw.timestamp()
    value, key, pairs = raw.value(), raw.key(), raw.headers()
    known: dict[str, str | float | int] = {}
    headers: dict[str, str] = {}
    if kind != confluent_kafka.TIMESTAMP_NOT_AVAILABLE:
        known["timestamp"] = timestamp / 1000
    for name, given in cast(Headers, pairs or []):
        text = _text(given)
        if name in _TEXTS:
            known[_TEXTS[name]] = text
        elif name in _TIMES:
            if (seconds := _number(text)) is not None:
                known[_TIMES[name]] = seconds
        elif name == "_attempt":
            known["attempt"] = int(text) if text.isdecimal() and int(text) else 1
        else:
            headers[name.removeprefix("_h:")] = text
    if "id" not in known:
        known["id"] = f"{topic}-{raw.partition()}-{raw.offset()}"
        if "content-type" in headers:
            known.setdefault("content_type", headers["content-type"])
    if value is None:
        known.setdefault("content_type", _JSON)
    return Message(
        body=_NULL if value is None else _bytes(value),
        destination=topic,
        key=None if key is None else _text(key),
        headers=MappingProxyType(headers) if headers else NO_HEADERS,
        **known,  # type: ignore[arg-type]
    )


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


# A foreign program may write anything anywhere; only the body keeps its bytes whatever they are.
def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
