"""The content header frame ↔ properties, by hand: it is on the path of every message, and strangers' headers are read.

pamqp's own does neither: one property that is not UTF-8 fails the frame, and header names are cut at 128 bytes.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Mapping
from typing import Any, Final

from pamqp import decode, encode
from pamqp.commands import Basic

_START: Final = struct.Struct(">HHQH")  # class, weight, body size, flags
_LENGTH: Final = struct.Struct(">I")
_TIMESTAMP: Final = struct.Struct(">Q")
_BASIC: Final = 60

# In the order in which they are on the wire; the flag of the first is the highest bit.
_FIELDS: Final = tuple(
    (name, Basic.Properties.flags[name], getattr(Basic.Properties, f"_{name}")) for name in Basic.Properties.__slots__
)


class TooLong(ValueError):
    """Something has no room in its field."""


def encode_header(found: Basic.Properties, size: int) -> bytes:
    """The payload of the header frame for a body of `size` bytes. Raises `TooLong`."""
    flags = 0
    parts = [b""]
    for name, flag, kind in _FIELDS:
        value = getattr(found, name)
        if value is None or (name == "cluster_id" and not value):
            continue
        flags |= flag
        if kind == "shortstr":
            parts.append(short(value, name))
        elif kind == "octet":
            parts.append(bytes((value,)))
        elif kind == "table":
            parts.append(table(value))
        else:
            parts.append(_TIMESTAMP.pack(int(value.timestamp())))
    parts[0] = _START.pack(_BASIC, 0, size, flags)
    return b"".join(parts)


def short(value: str, what: str) -> bytes:
    """A string with its length in one byte."""
    raw = value.encode()
    if len(raw) > 255:
        raise TooLong(f"its {what} is {len(raw)} bytes long: AMQP has room for 255")
    return bytes((len(raw),)) + raw


def table(values: Mapping[str, Any]) -> bytes:
    """A field table. Raises `TooLong`."""
    parts = [b""]
    for name, value in values.items():
        parts.append(short(name, "header name"))
        if type(value) is str:
            raw = value.encode()
            parts.append(b"S" + _LENGTH.pack(len(raw)) + raw)
        else:
            parts.append(encode.encode_table_value(value))
    parts[0] = _LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def decode_header(payload: bytes) -> tuple[int, Basic.Properties]:
    """The size of the body, and the properties. What cannot be read is left out; text that is no UTF-8 is replaced.

    Raises ValueError if it is no header at all.
    """
    try:
        return _decode_header(payload)
    except (struct.error, IndexError):
        raise ValueError("a header frame is cut short") from None


def _decode_header(payload: bytes) -> tuple[int, Basic.Properties]:
    _, _, size, flags = _START.unpack_from(payload)
    found, at = Basic.Properties(), _START.size
    for name, flag, kind in _FIELDS:
        if not flags & flag:
            continue
        if kind == "shortstr":
            end = at + 1 + payload[at]
            setattr(found, name, payload[at + 1 : end].decode(errors="replace"))
        elif kind == "octet":
            end = at + 1
            setattr(found, name, payload[at])
        elif kind == "table":
            end = at + 4 + _LENGTH.unpack_from(payload, at)[0]
            found.headers = _read_table(payload, at + 4, end)
        else:
            end = at + 8
            found.timestamp = _moment(_TIMESTAMP.unpack_from(payload, at)[0])
        at = end
    if at > len(payload):
        raise ValueError("a header frame is cut short")
    return size, found


def _read_table(payload: bytes, at: int, end: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    while at < end:
        start = at + 1 + payload[at]
        name = payload[at + 1 : start].decode(errors="replace")
        if payload[start] == 0x53:  # S, a string
            at = start + 5 + _LENGTH.unpack_from(payload, start + 1)[0]
            table[name] = payload[start + 5 : at].decode(errors="replace")
            continue
        try:
            used, table[name] = decode.embedded_value(payload[start:end])
        except (ValueError, OverflowError, OSError, RecursionError):
            break  # how long it is, is not known either: the rest of the headers is lost
        at = start + used
    return table


def _moment(seconds: int) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return None
