"""Messages as AMQP properties: our own come back whole, and those of strangers are read as well as they can be."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from pamqp.commands import Basic

from adapters.rabbitmq import Exchange, Queue
from adapters.rabbitmq.routing import routing_key
from adapters.rabbitmq.wire import message, properties
from runtime import Message

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
messages = st.builds(
    Message,
    body=st.binary(max_size=40),
    id=texts.filter(bool),
    destination=st.just("orders"),
    key=st.none() | texts,
    headers=st.dictionaries(texts | st.sampled_from(["_key", "_time", "_h:_key", "_h:"]), texts, max_size=3),
    content_type=st.none() | texts.filter(bool),
    reply_to=st.none() | texts.filter(bool),
    correlation_id=st.none() | texts.filter(bool),
    timestamp=st.none() | st.floats(0, 2**33),
    deadline=st.none() | st.floats(0, 2**33),
)
orders = Queue("orders")


def there_and_back(sent: Message, destination: Queue | Exchange) -> Message:
    exchange = destination.name if isinstance(destination, Exchange) else ""
    found = properties(sent, destination)
    key = routing_key(destination, sent)
    return message("orders", found, sent.body, exchange=exchange, key=key, redelivered=False)


@given(messages)
def test_a_message_comes_back_from_a_queue_as_it_was(sent: Message) -> None:
    assert there_and_back(sent, orders) == sent


@given(messages)
def test_through_an_exchange_only_a_missing_key_becomes_the_routing_key(sent: Message) -> None:
    assert there_and_back(sent, Exchange("events")) == msgspec.structs.replace(sent, key=sent.key or "")
    assert there_and_back(sent, Exchange("events", routing_key="a.b")) == msgspec.structs.replace(
        sent, key="a.b" if sent.key is None else sent.key
    )


def test_other_programs_find_each_field_where_amqp_puts_it() -> None:
    sent = Message(
        body=b"1",
        id="a",
        destination="orders",
        key="k",
        content_type="application/json",
        reply_to="answers",
        correlation_id="c",
        timestamp=1700000000.25,
        deadline=1700000060.5,
    )
    found = properties(sent, Queue("orders", priority=3, expiration=1.5))
    assert found.message_id == "a"
    assert found.content_type == "application/json"
    assert (found.reply_to, found.correlation_id) == ("answers", "c")
    assert found.timestamp == datetime.datetime.fromtimestamp(1700000000, datetime.UTC)
    assert (found.delivery_mode, found.priority, found.expiration) == (2, 3, "1500")
    assert found.headers == {"_key": "k", "_time": "1700000000.25", "_deadline": "1700000060.5"}
    assert properties(sent, Queue("orders", persistent=False)).delivery_mode == 1
    assert "_key" not in (properties(sent, Exchange("events")).headers or {})


def foreign(body: bytes = b"1", *, exchange: str = "", key: str = "orders", **found: Any) -> Message:
    return message("orders", Basic.Properties(**found), body, exchange=exchange, key=key, redelivered=False)


def test_a_message_without_any_properties_is_read() -> None:
    first, second = foreign(), foreign()
    assert first.id != second.id
    assert (first.key, first.headers, first.timestamp, first.attempt) == (None, {}, None, 1)
    assert foreign(exchange="events", key="orders.created").key == "orders.created"


def test_header_values_of_any_type_are_shown_as_text() -> None:
    moment = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    headers = {"n": 5, "b": True, "raw": b"\xff", "t": {"a": [1, b"x"]}, "at": moment, "none": None, "_time": "late"}
    assert foreign(headers=headers, timestamp=moment).headers == {
        "n": "5",
        "b": "true",
        "raw": "\N{REPLACEMENT CHARACTER}",
        "t": '{"a":[1,"eA=="]}',
        "at": '"2026-01-01T00:00:00Z"',
        "none": "null",
    }
    assert foreign(headers=headers, timestamp=moment).timestamp == moment.timestamp()


@pytest.mark.parametrize(
    ("count", "redelivered", "attempt"), [(None, False, 1), (None, True, 2), (0, False, 1), (2, True, 3)]
)
def test_the_attempt_is_what_the_server_knows(count: int | None, redelivered: bool, attempt: int) -> None:
    found = Basic.Properties(headers={} if count is None else {"x-delivery-count": count})
    read = message("orders", found, b"", exchange="", key="orders", redelivered=redelivered)
    assert read.attempt == attempt
    assert read.headers == {}
