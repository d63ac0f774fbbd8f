"""Stream entries ↔ messages. The format is described in the package's docstring and does not change."""

from __future__ import annotations

import time
from types import MappingProxyType

import msgspec

from runtime.message import NO_HEADERS, Message

from .streams import Stream

Argument = str | int | float | bytes
Command = list[Argument]

_FIELDS = {
    b"_id": "id",
    b"_key": "key",
    b"_type": "content_type",
    b"_reply_to": "reply_to",
    b"_correlation": "correlation_id",
}
_TIMES = {b"_time": "timestamp", b"_deadline": "deadline"}


def xadd(message: Message, stream: Stream) -> Command:
    """The command that publishes `message`, and trims."""
    command: Command = ["XADD", stream.name]
    if stream.maxlen is not None:
        command += ("MAXLEN", "~", stream.maxlen)
    elif stream.maxage is not None:
        # Entry ids begin with the server's clock in ms; ours is close enough for "about".
        command += ("MINID", "~", int((time.time() - stream.maxage) * 1000))
    command += ("*", *fields(message))
    return command


def fields(message: Message) -> Command:
    """The entry's fields and values in turn."""
    entry: Command = ["body", message.body, "_id", message.id]
    if message.key is not None:
        entry += ("_key", message.key)
    if message.content_type is not None:
        entry += ("_type", message.content_type)
    if message.reply_to is not None:
        entry += ("_reply_to", message.reply_to)
    if message.correlation_id is not None:
        entry += ("_correlation", message.correlation_id)
    if message.timestamp is not None:
        entry += ("_time", repr(message.timestamp))
    if message.deadline is not None:
        entry += ("_deadline", repr(message.deadline))
    for name, value in message.headers.items():
        entry += (f"_h:{name}" if name.startswith("_") or name == "body" else name, value)
    return entry


def message(stream: str, entry_id: bytes, entry: list[bytes], attempt: int) -> Message:
    """The message in an entry, whoever wrote it."""
    pairs = dict(zip(entry[::2], entry[1::2], strict=True))
    body = pairs.pop(b"body", None)
    if body is None:
        return Message(body=_foreign_body(pairs), id=entry_id.decode(), destination=stream, attempt=attempt)
    known: dict[str, str | float] = {}
    headers: dict[str, str] = {}
    for field, value in pairs.items():
        if field in _FIELDS:
            known[_FIELDS[field]] = _text(value)
        elif field in _TIMES:
            seconds = _number(value)
            if seconds is not None:
                known[_TIMES[field]] = seconds
        else:
            headers[_text(field.removeprefix(b"_h:"))] = _text(value)
    known.setdefault("id", entry_id.decode())
    shown = MappingProxyType(headers) if headers else NO_HEADERS
    return Message(body=body, destination=stream, headers=shown, attempt=attempt, **known)  # type: ignore[arg-type]


def _foreign_body(pairs: dict[bytes, bytes]) -> bytes:
    if len(pairs) == 1:
        return next(iter(pairs.values()))
    return msgspec.json.encode({_text(field): _text(value) for field, value in pairs.items()})


# A foreign program may write anything anywhere; only the body keeps its bytes whatever they are.
def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _number(value: bytes) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
