"""The methods that carry names, as frames. By hand, because pamqp refuses names that RabbitMQ takes: any that is not
plain ASCII, and those of exchanges and virtual hosts from 128 characters on."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from .frames import METHOD, frame
from .header import short, table
from .queues import Argument

_METHOD: Final = struct.Struct(">HH")
_NO_TICKET: Final = b"\0\0"
_DURABLE: Final = 2


def open_vhost(name: str) -> bytes:
    return _method(0, 10, 40, short(name, "virtual host"), b"\0", b"\0")


def declare_exchange(channel: int, name: str, kind: str, *, durable: bool) -> bytes:
    parts = short(name, "exchange"), short(kind, "type"), bytes((durable * _DURABLE,)), table({})
    return _method(channel, 40, 10, _NO_TICKET, *parts)


def declare_queue(channel: int, name: str, *, durable: bool, arguments: Mapping[str, Argument]) -> bytes:
    return _method(channel, 50, 10, _NO_TICKET, short(name, "queue"), bytes((durable * _DURABLE,)), table(arguments))


def look_at_queue(channel: int, name: str) -> bytes:
    """A passive declare: it only answers, or closes the channel if there is no such queue."""
    return _method(channel, 50, 10, _NO_TICKET, short(name, "queue"), b"\x01", table({}))


def bind_queue(channel: int, queue: str, exchange: str, key: str, arguments: Mapping[str, Argument]) -> bytes:
    names = short(queue, "queue"), short(exchange, "exchange"), short(key, "routing key")
    return _method(channel, 50, 20, _NO_TICKET, *names, b"\0", table(arguments))


def consume(channel: int, queue: str, consumer: str) -> bytes:
    return _method(channel, 60, 20, _NO_TICKET, short(queue, "queue"), short(consumer, "consumer"), b"\0", table({}))


def cancel(channel: int, consumer: str) -> bytes:
    """The server sends no answer."""
    return _method(channel, 60, 30, short(consumer, "consumer"), b"\x01")


def _method(channel: int, class_id: int, method_id: int, *arguments: bytes) -> bytes:
    return frame(METHOD, channel, b"".join((_METHOD.pack(class_id, method_id), *arguments)))
