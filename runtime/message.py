"""The immutable message, as a handler sees it and as an adapter puts it on the wire."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping

import msgspec

NO_HEADERS: Mapping[str, str] = types.MappingProxyType({})


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message: its body as bytes, and all that travels with it.

    A handler asks for it with a parameter annotated `Message`. Each adapter's page says where on the wire it puts
    each field. A msgspec Struct and not a dataclass: a frozen dataclass of this size costs ten times as much to make.
    """

    body: bytes
    #: Unique; given by the sender before the first send. A foreign message gets one from its place on the broker.
    id: str
    #: Where it was sent to: a stream, a queue, a topic.
    destination: str
    key: str | None = None
    headers: Mapping[str, str] = NO_HEADERS
    content_type: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    #: When it was first sent: seconds since the epoch, by the sender's clock.
    timestamp: float | None = None
    #: After this moment nobody wants it any more: seconds since the epoch.
    deadline: float | None = None
    #: How often it has been handed to a handler, this time included.
    attempt: int = 1

    def __repr__(self) -> str:
        body = self.body if len(self.body) <= 40 else self.body[:40] + b"..."
        return f"<Message {self.id} on {self.destination!r} attempt {self.attempt}: {body!r}>"


def new_message_id() -> str:
    """A new id: 32 random hexadecimal digits."""
    # Not a UUID object: this is on the path of every publish, and the object costs four times the digits.
    return os.urandom(16).hex()
