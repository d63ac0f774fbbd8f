"""The immutable message."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from runtime import Message
from runtime.message import NO_HEADERS, new_message_id


def test_a_message_cannot_be_changed() -> None:
    message: Any = Message(body=b"", id="m1", destination="orders")
    for field in msgspec.structs.fields(Message):
        with pytest.raises(AttributeError):
            setattr(message, field.name, None)
    with pytest.raises(TypeError):
        message.headers["a"] = "b"
    assert NO_HEADERS == {}


def test_only_body_id_and_destination_are_needed() -> None:
    message = Message(body=b"", id="m1", destination="orders")
    assert message.attempt == 1
    assert message.headers == {}
    optional = {field.name for field in msgspec.structs.fields(Message) if not field.required}
    assert {name for name in optional if getattr(message, name) is None} == optional - {"headers", "attempt"}


@pytest.mark.parametrize("missing", ["body", "id", "destination"])
def test_none_of_them_can_be_left_out(missing: str) -> None:
    fields: dict[str, Any] = {"body": b"", "id": "m1", "destination": "orders"}
    del fields[missing]
    with pytest.raises(TypeError, match=missing):
        Message(**fields)


def test_a_message_shows_which_it_is_and_how_its_body_begins() -> None:
    short = Message(body=b"x" * 40, id="m1", destination="orders", attempt=2)
    assert repr(short) == f"<Message m1 on 'orders' attempt 2: {b'x' * 40!r}>"
    long = Message(body=b"x" * 1_000_000, id="m1", destination="orders")
    assert repr(long) == f"<Message m1 on 'orders' attempt 1: {b'x' * 40 + b'...'!r}>"


@pytest.mark.promise("P5")
def test_ids_are_unique_and_fit_any_broker() -> None:
    ids = {new_message_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", id) for id in ids)
