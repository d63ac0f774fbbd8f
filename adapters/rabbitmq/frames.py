"""Bytes ↔ frames, without I/O. Most methods are pamqp's; those on the path of every message are cut by hand."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pamqp import base, commands, frame as codec
from pamqp.exceptions import PAMQPException

from .header import TooLong, short

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
#: Seven bytes before the payload, one after.
OVERHEAD: Final = 8
_END: Final = 0xCE

_START: Final = struct.Struct(">BHI")
_TAG: Final = struct.Struct(">QB")
_ACK: Final = struct.Struct(">BHIHHQBB")
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"

# class << 16 | method
DELIVER: Final = 60 << 16 | 60
RETURN: Final = 60 << 16 | 50
ACK: Final = 60 << 16 | 80
NACK: Final = 60 << 16 | 120
REJECT: Final = 60 << 16 | 90


class ProtocolError(Exception):
    """What arrived is not AMQP 0-9-1."""


class Frame(NamedTuple):
    kind: int
    channel: int
    payload: bytes


class FrameParser:
    """Frames out of bytes that were cut anywhere."""

    def __init__(self) -> None:
        #: Of a payload. A longer one is refused: nobody agreed to it.
        self.limit = 128 * 1024
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises `ProtocolError`."""
        if self._rest:
            data = self._rest + data
        frames = []
        at, size = 0, len(data)
        while size - at >= OVERHEAD:
            kind, channel, length = _START.unpack_from(data, at)
            if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
                if data.startswith(b"AMQP", at):
                    raise ProtocolError("the server speaks another version of AMQP")
                raise ProtocolError(f"it began with {data[at : at + 8]!r}")
            if length > self.limit:
                raise ProtocolError(f"a frame is {length} bytes long, and {self.limit} were agreed on")
            end = at + 7 + length
            if end >= size:
                break
            if data[end] != _END:
                raise ProtocolError("a frame does not end where it should")
            frames.append(Frame(kind, channel, data[at + 7 : end]))
            at = end + 1
        self._rest = data[at:]
        return frames


def method_index(payload: bytes) -> int:
    """Which method it is: class << 16 | method."""
    return int.from_bytes(payload[:4], "big")


def parse_method(payload: bytes) -> base.Frame:
    """Raises `ProtocolError`."""
    try:
        method: base.Frame = commands.INDEX_MAPPING[method_index(payload)]()
        method.unmarshal(payload[4:])
    except (KeyError, ValueError, struct.error, PAMQPException) as error:
        raise ProtocolError(f"a method cannot be read: {error!r}") from error
    return method


class Deliver(NamedTuple):
    consumer_tag: str
    tag: int
    redelivered: bool
    exchange: str
    key: str


def parse_deliver(payload: bytes) -> Deliver:
    """Raises `ProtocolError`."""
    try:
        consumer, at = _short(payload, 4)
        tag, redelivered = _TAG.unpack_from(payload, at)
        exchange, at = _short(payload, at + 9)
        key, at = _short(payload, at)
    except (IndexError, struct.error):
        raise ProtocolError("basic.deliver is cut short") from None
    return Deliver(consumer, tag, bool(redelivered), exchange, key)


class Return(NamedTuple):
    text: str
    exchange: str
    key: str


def parse_return(payload: bytes) -> Return:
    """Raises `ProtocolError`."""
    try:
        text, at = _short(payload, 6)
        exchange, at = _short(payload, at)
        key, at = _short(payload, at)
    except IndexError:
        raise ProtocolError("basic.return is cut short") from None
    return Return(text, exchange, key)


class Confirm(NamedTuple):
    tag: int
    multiple: bool


def parse_confirm(payload: bytes) -> Confirm:
    """Of basic.ack or basic.nack. Raises `ProtocolError`."""
    try:
        tag, bits = _TAG.unpack_from(payload, 4)
    except struct.error:
        raise ProtocolError("a confirm is cut short") from None
    return Confirm(tag, bool(bits & 1))


def _short(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    if end > len(payload):
        raise IndexError
    # A stranger's routing key may be any bytes.
    return payload[at + 1 : end].decode(errors="replace"), end


# ---- to the server ---------------------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _START.pack(kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, command: base.Frame) -> bytes:
    return codec.marshal(command, channel)


def ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    return _ACK.pack(METHOD, channel, 13, 60, 80, tag, multiple, _END)


def nack(channel: int, tag: int) -> bytes:
    """Give it back: the server delivers it again."""
    return _ACK.pack(METHOD, channel, 13, 60, 120, tag, 2, _END)


def reject(channel: int, tag: int) -> bytes:
    """Never again: the server drops it, or dead-letters it."""
    return _ACK.pack(METHOD, channel, 13, 60, 90, tag, 0, _END)


def publish(
    channel: int, exchange: str, key: str, *, mandatory: bool, header: bytes, body: bytes, frame_max: int
) -> list[bytes]:
    """The frames of basic.publish with its content, in parts to join. Raises `TooLong`."""
    if len(header) + OVERHEAD > frame_max:
        raise TooLong(f"its headers are {len(header)} bytes long: the server takes {frame_max - OVERHEAD}")
    command = b"".join(
        (_PUBLISH, short(exchange, "exchange"), short(key, "routing key"), b"\x01" if mandatory else b"\0")
    )
    parts = [_START.pack(METHOD, channel, len(command)), command, b"\xce", _START.pack(HEADER, channel, len(header))]
    parts += (header, b"\xce")
    room = frame_max - OVERHEAD
    for at in range(0, len(body), room):
        part = body if len(body) <= room else body[at : at + room]
        parts += (_START.pack(BODY, channel, len(part)), part, b"\xce")
    return parts
