"""Messages as Kafka records, and what other programs write."""

from __future__ import annotations

from typing import Any

import confluent_kafka
from hypothesis import example, given, strategies as st

from adapters.kafka import wire
from runtime import Message

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
special = st.sampled_from(["_id", "_type", "_h:", "_h:_id", "_attempt", "_", "content-type", "h:", ""])
times = st.none() | st.floats(0, 4e9)
messages = st.builds(
    Message,
    body=st.binary(max_size=20) | st.just(b"null"),
    id=text,
    destination=st.just("orders"),
    key=st.none() | text,
    headers=st.dictionaries(text | special | special.map("_".__add__), text, max_size=5),
    content_type=st.none() | text | st.just("application/json"),
    reply_to=st.none() | text,
    correlation_id=st.none() | text,
    timestamp=times,
    deadline=times,
    attempt=st.integers(1, 100),
)


def raw(
    value: bytes | None,
    key: bytes | None = None,
    headers: Any = None,
    timestamp: tuple[int, int] = (confluent_kafka.TIMESTAMP_NOT_AVAILABLE, 0),
) -> confluent_kafka.Message:
    return confluent_kafka.Message(
        topic="orders", partition=2, offset=7, key=key, value=value, headers=headers, timestamp=timestamp
    )


@given(messages)
@example(Message(body=b"null", id="", destination="orders", content_type="application/json", headers={"_h:_id": "3"}))
@example(Message(body=b"", id="m", destination="orders", timestamp=1.1e-300, deadline=1760000000.123456))
def test_a_message_comes_back_as_it_was_sent(message: Message) -> None:
    record = wire.record(message)
    kind = confluent_kafka.TIMESTAMP_CREATE_TIME if record.timestamp else confluent_kafka.TIMESTAMP_NOT_AVAILABLE
    again = wire.message("orders", raw(record.value, record.key, record.headers, (kind, record.timestamp)))
    assert again == message


def test_the_json_null_travels_as_a_tombstone_and_back() -> None:
    message = Message(body=b"null", id="m", destination="users", key="7", content_type="application/json")
    assert wire.record(message).value is None
    foreign = wire.message("users", raw(None, b"7"))
    assert (foreign.body, foreign.key, foreign.content_type) == (b"null", "7", "application/json")


def test_what_another_program_wrote_is_read_as_well_as_it_can_be() -> None:
    headers = [("trace", b"\xff1"), ("empty", None), ("content-type", b"text/csv")]
    seen = wire.message("orders", raw(b"\x00\xff", b"k\xff", headers, (confluent_kafka.TIMESTAMP_CREATE_TIME, 1500)))
    assert seen == Message(
        body=b"\x00\xff",
        id="orders-2-7",
        destination="orders",
        key="k\ufffd",
        headers={"trace": "\ufffd1", "empty": "", "content-type": "text/csv"},
        content_type="text/csv",
        timestamp=1.5,
    )


def test_numbers_that_are_none_are_left_out() -> None:
    headers = [("_attempt", b"many"), ("_deadline", b"soon"), ("_time", b"?")]
    seen = wire.message("orders", raw(b"", None, headers))
    assert (seen.attempt, seen.deadline, seen.timestamp) == (1, None, None)
    assert wire.message("orders", raw(b"", None, [("_attempt", b"0")])).attempt == 1
