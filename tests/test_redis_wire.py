"""Messages as Redis Stream entries, through the bytes that really cross the wire."""

from __future__ import annotations

import time
from typing import Any

import hiredis
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from adapters.redis import Stream, wire
from runtime import Message

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
special = st.sampled_from(["body", "_id", "_key", "_h:", "_h:body", "_h:_h:x", "_time", "_", "h:", ""])
times = st.none() | st.floats(0, 4e9)
messages = st.builds(
    Message,
    body=st.binary(max_size=20),
    id=text,
    destination=text.filter(bool),
    key=st.none() | text,
    headers=st.dictionaries(text | special | special.map("_".__add__), text, max_size=5),
    content_type=st.none() | text,
    reply_to=st.none() | text,
    correlation_id=st.none() | text,
    timestamp=times,
    deadline=times,
    attempt=st.integers(1, 100),
)


def sent(message: Message, stream: Stream | None = None) -> list[bytes]:
    """XADD's arguments as the server gets them."""
    reader = hiredis.Reader()
    command: Any = wire.xadd(message, stream or Stream(message.destination))
    reader.feed(hiredis.pack_command(tuple(command)))
    arguments: list[bytes] = reader.gets()
    return arguments


def entry_of(message: Message) -> list[bytes]:
    arguments = sent(message)
    assert arguments[:3] == [b"XADD", message.destination.encode(), b"*"]
    return arguments[3:]


def read(*entry: bytes) -> Message:
    return wire.message("orders", b"5-0", list(entry), attempt=1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages)
@example(Message(body=b"", id="", destination="s", headers={"body": "1", "_id": "2", "_h:_id": "3", "id": "4", "": ""}))
@example(Message(body=b"", id="m", destination="s", timestamp=1.1e-300, deadline=1760000000.123456))
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert wire.message(message.destination, b"5-0", entry_of(message), message.attempt) == message


def test_the_format_is_the_documented_one() -> None:
    message = Message(
        body=b"{}",
        id="m1",
        destination="orders",
        key="k",
        headers={"tenant": "acme", "_trace": "t", "body": "b"},
        content_type="application/json",
        reply_to="answers",
        correlation_id="c",
        timestamp=1.5,
        deadline=2.0,
        attempt=3,
    )
    entry = entry_of(message)
    assert dict(zip(entry[::2], entry[1::2], strict=True)) == {
        b"body": b"{}",
        b"_id": b"m1",
        b"_key": b"k",
        b"_type": b"application/json",
        b"_reply_to": b"answers",
        b"_correlation": b"c",
        b"_time": b"1.5",
        b"_deadline": b"2.0",
        b"tenant": b"acme",
        b"_h:_trace": b"t",
        b"_h:body": b"b",
    }


def test_only_what_is_set_is_sent() -> None:
    assert entry_of(Message(body=b"x", id="m1", destination="orders")) == [b"body", b"x", b"_id", b"m1"]


def test_a_publish_trims_as_its_stream_says() -> None:
    message = Message(body=b"x", id="m1", destination="orders")
    assert sent(message, Stream("orders", maxlen=100))[1:6] == [b"orders", b"MAXLEN", b"~", b"100", b"*"]
    before = time.time()
    arguments = sent(message, Stream("orders", maxage=60.0))
    assert [*arguments[1:4], arguments[5]] == [b"orders", b"MINID", b"~", b"*"]
    assert before - 60.001 <= int(arguments[4]) / 1000 <= time.time() - 60


@pytest.mark.parametrize(
    ("entry", "body"),
    [
        ([b"anything", b"\xff\x00"], b"\xff\x00"),
        ([b"_id", b"x"], b"x"),
        ([b"id", b"2", b"total", b"9.5"], b'{"id":"2","total":"9.5"}'),
        ([b"a", b"\xff", b"\xfe", b"b"], '{"a":"\ufffd","\ufffd":"b"}'.encode()),
    ],
    ids=["one field", "one field of a name of ours", "several fields", "several fields, not all text"],
)
def test_an_entry_without_a_body_is_read_as_well_as_it_can_be(entry: list[bytes], body: bytes) -> None:
    assert read(*entry) == Message(body=body, id="5-0", destination="orders")


def test_a_foreign_entry_with_a_body_has_the_entrys_id_and_the_rest_as_headers() -> None:
    message = read(b"body", b"\xff", b"tenant", b"acme", b"_custom", b"1", b"bad", b"\xff")
    assert message == Message(
        body=b"\xff", id="5-0", destination="orders", headers={"tenant": "acme", "_custom": "1", "bad": "\ufffd"}
    )


@pytest.mark.parametrize("field", [b"_time", b"_deadline"])
def test_a_time_that_is_no_number_is_as_if_it_were_not_there(field: bytes) -> None:
    assert read(b"body", b"x", field, b"yesterday") == read(b"body", b"x")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=8) | special.map(str.encode), st.binary(max_size=8)), min_size=1))
def test_no_entry_is_too_strange_to_be_read(pairs: list[tuple[bytes, bytes]]) -> None:
    message = read(*(part for pair in pairs for part in pair))
    fields = dict(pairs)
    if b"body" in fields:
        assert message.body == fields[b"body"]
    elif len(fields) > 1:
        assert isinstance(msgspec.json.decode(message.body), dict)
    else:
        assert message.body == pairs[-1][1]
