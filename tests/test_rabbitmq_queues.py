"""What a user names for RabbitMQ: queues, exchanges, bindings. Each mistake is one clear sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest

from adapters.rabbitmq import Exchange, Queue
from runtime import ConfigurationError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "name of a Queue is ''"),
        ({"name": b"orders"}, "name of a Queue is b'orders'"),
        ({"name": "x" * 256}, "name of a Queue is 256 bytes long"),
        ({"name": "\ud800"}, "name of a Queue is '\\ud800', which is no text"),
        ({"type": "stream"}, "type of queue 'orders' is 'stream'"),
        ({"durable": 1}, "durable of queue 'orders' is 1"),
        ({"type": "quorum", "durable": False}, "queue 'orders' is a quorum queue, which is always durable"),
        ({"type": "quorum", "max_priority": 5}, "queue 'orders' is a quorum queue, which keeps no priorities"),
        ({"type": "quorum", "priority": 5}, "queue 'orders' is a quorum queue, which keeps no priorities"),
        ({"delivery_limit": 5}, "queue 'orders' has a delivery_limit"),
        ({"bindings": "orders"}, "bindings of queue 'orders' is 'orders'"),
        ({"bindings": 5}, "bindings of queue 'orders' is 5"),
        ({"bindings": ["orders"]}, "'orders' binds queue 'orders' to nothing"),
        ({"bindings": [Exchange("events")]}, "a binding to direct exchange 'events' has no key"),
        ({"dead_letter_exchange": 5}, "dead_letter_exchange of queue 'orders' is 5"),
        ({"dead_letter_routing_key": "x"}, "queue 'orders' has a dead_letter_routing_key and no"),
        ({"message_ttl": -1}, "message_ttl of queue 'orders' is -1"),
        ({"message_ttl": math.inf}, "message_ttl of queue 'orders' is inf"),
        ({"message_ttl": math.nan}, "message_ttl of queue 'orders' is nan"),
        ({"message_ttl": True}, "message_ttl of queue 'orders' is True"),
        ({"expires": 0}, "expires of queue 'orders' is 0"),
        ({"max_length": 0}, "max_length of queue 'orders' is 0"),
        ({"max_length": True}, "max_length of queue 'orders' is True"),
        ({"max_priority": 256}, "max_priority of queue 'orders' is 256"),
        ({"overflow": "drop"}, "overflow of queue 'orders' is 'drop'"),
        ({"priority": 256}, "priority of queue 'orders' is 256"),
        ({"priority": -1}, "priority of queue 'orders' is -1"),
        ({"expiration": "60"}, "expiration of queue 'orders' is '60'"),
        ({"mandatory": None}, "mandatory of queue 'orders' is None"),
    ],
    ids=str,
)
def test_a_queue_that_cannot_work_is_refused_where_it_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Queue(**{"name": "orders"} | options)
    assert str(refusal.value).startswith(says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "name of an Exchange is ''"),
        ({"type": "x-delayed-message"}, "type of exchange 'events' is 'x-delayed-message'"),
        ({"routing_key": 5}, "routing_key of exchange 'events' is 5"),
        ({"routing_key": "x" * 256}, "routing_key of exchange 'events' is 256 bytes long"),
        ({"priority": 1.5}, "priority of exchange 'events' is 1.5"),
    ],
    ids=str,
)
def test_an_exchange_that_cannot_work_is_refused_where_it_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Exchange(**{"name": "events"} | options)
    assert str(refusal.value).startswith(says)


@pytest.mark.parametrize(
    ("exchange", "options", "says"),
    [
        ("topic", {}, "has no key"),
        ("fanout", {"key": "x"}, "has the key 'x', which such an exchange does not look at"),
        ("direct", {"key": "x", "headers": {"a": "b"}}, "has headers, which only a headers exchange looks at"),
        ("headers", {}, "names no headers"),
        ("headers", {"headers": {"x-a": "b"}}, "begins with x-"),
        ("headers", {"headers": {"a": 5}}, "header 'a' of a binding to headers exchange 'e' is 5"),
        ("headers", {"headers": {"a": "b"}, "match": "some"}, "match of a binding to headers exchange 'e' is 'some'"),
        ("direct", {"key": 5}, "key of a binding to direct exchange 'e' is 5"),
    ],
    ids=str,
)
def test_a_binding_that_cannot_match_is_refused_where_it_is_made(
    exchange: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Exchange("e", exchange).binding(**options)
    assert says in str(refusal.value)


def test_a_queue_can_be_a_key_of_a_dict_with_its_bindings_in_a_list() -> None:
    events = Exchange("events", "topic")
    billing = Queue("billing", bindings=[events.binding("orders.*"), Exchange("all", "fanout")])
    assert {billing: 1}[
        Queue("billing", bindings=(events.binding("orders.*"), Exchange("all", "fanout").binding()))
    ] == 1
    assert [binding.exchange.name for binding in billing.bound] == ["events", "all"]
    tenants = Exchange("tenants", "headers")
    assert tenants.binding(headers={"b": "2", "a": "1"}) == tenants.binding(headers={"a": "1", "b": "2"})


def test_arguments_are_what_the_server_calls_them_and_times_in_milliseconds() -> None:
    assert Queue("orders").arguments == {}
    assert Queue("orders").is_bare
    full = Queue(
        "orders",
        type="classic",
        dead_letter_exchange=Exchange("dead", "fanout"),
        dead_letter_routing_key="orders",
        message_ttl=1.5,
        expires=60,
        max_length=10,
        overflow="reject-publish",
        max_priority=5,
        single_active_consumer=True,
    )
    assert full.arguments == {
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "dead",
        "x-dead-letter-routing-key": "orders",
        "x-message-ttl": 1500,
        "x-expires": 60_000,
        "x-max-length": 10,
        "x-overflow": "reject-publish",
        "x-max-priority": 5,
        "x-single-active-consumer": True,
    }
    assert not full.is_bare
    assert full.exchanges == [Exchange("dead", "fanout")]
    quorum = Queue("orders", type="quorum", delivery_limit=3, dead_letter_exchange="")
    assert quorum.arguments == {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-dead-letter-exchange": ""}
