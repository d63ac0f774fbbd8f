"""What a user names to reach RabbitMQ. Each mistake is one clear sentence, and no password is shown."""

from __future__ import annotations

import ssl
import subprocess
import sys
from typing import Any

import pytest

from adapters.rabbitmq import Exchange, Queue, RabbitBroker
from adapters.rabbitmq.address import Address
from runtime import ConfigurationError


def addresses(url: str, **options: Any) -> tuple[Address, ...]:
    return RabbitBroker(url, **options)._addresses


def test_a_url_says_where_the_server_is_and_how_to_be_let_in() -> None:
    local: dict[str, Any] = {
        "host": "localhost", "port": 5672, "vhost": "/", "username": "guest", "password": "guest", "tls": None
    }  # fmt: skip
    assert addresses("amqp://localhost") == addresses("amqp://localhost/") == (Address(**local),)
    assert addresses("amqp://localhost:7000/orders") == (Address(**local | {"port": 7000, "vhost": "orders"}),)
    assert addresses("amqp://localhost/%2Fa%20b") == (Address(**local | {"vhost": "/a b"}),)
    assert addresses("amqp://localhost/%2F") == (Address(**local),)
    login = {"username": "ada", "password": "p@ss/word"}
    assert addresses("amqp://ada:p%40ss%2Fword@[::1]") == (Address(**local | login | {"host": "::1"}),)
    assert addresses("amqp://ada:@localhost") == (Address(**local | {"username": "ada", "password": ""}),)


def test_the_other_nodes_of_a_cluster_are_tried_after_the_urls() -> None:
    first, second, third = addresses("amqp://ada:secret@a:7000/orders", nodes=["b", "[::1]:7001"])
    assert (str(first), str(second), str(third)) == ("a:7000", "b:5672", "::1:7001")
    assert {(each.username, each.password, each.vhost) for each in (first, second, third)} == {
        ("ada", "secret", "orders")
    }


def test_amqps_means_tls_with_the_systems_authorities_or_the_users() -> None:
    [default] = addresses("amqps://localhost")
    assert default.port == 5671
    assert default.tls is not None
    assert default.tls.verify_mode is ssl.CERT_REQUIRED
    own = ssl.create_default_context()
    assert [each.tls for each in addresses("amqps://a", tls=own, nodes=["b"])] == [own, own]
    with pytest.raises(ConfigurationError, match="write amqps:// to use TLS"):
        RabbitBroker("amqp://localhost", tls=own)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("amqp://", {}, "names no host"),
        ("amqp://:secret@", {}, "names no host"),
        ("amqp://user:secret@localhost:0/", {}, "is no port"),
        ("amqp://user:sec/ret@localhost:70000", {}, "is no port"),
        ("amqp://user:secret@localhost/a/b", {}, "has a slash in it"),
        ("amqp://user:secret@localhost/?heartbeat=5", {}, "options are arguments here"),
        ("amqp://user:secret@localhost/#a", {}, "options are arguments here"),
        ("amqp://user@localhost", {}, "has a user and no password"),
        ("http://user:secret@localhost", {}, "does not know http://"),
        ("amqp://localhost/" + "x" * 256, {}, "256 bytes long"),
        ("amqp://localhost", {"nodes": "b"}, "give a list of HOST or HOST:PORT"),
        ("amqp://localhost", {"nodes": ["amqp://user:secret@b"]}, "is not HOST or HOST:PORT"),
        ("amqp://localhost", {"nodes": ["b:port"]}, "is no port"),
        ("amqp://localhost", {"nodes": [":5672"]}, "names no host"),
        ("amqp://localhost", {"nodes": [5]}, "is not HOST or HOST:PORT"),
        ("amqp://localhost", {"heartbeat": 0}, "heartbeat of RabbitBroker is 0"),
        ("amqp://localhost", {"heartbeat": 1.5}, "heartbeat of RabbitBroker is 1.5"),
        ("amqp://localhost", {"connection": "pika"}, "connection of RabbitBroker is 'pika'"),
    ],
    ids=str,
)
def test_a_broker_that_cannot_work_is_refused_where_it_is_named(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        RabbitBroker(url, **options)
    assert says in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_string_names_a_durable_queue_on_the_default_exchange() -> None:
    broker = RabbitBroker("amqp://localhost")
    assert broker.source("orders") == broker.destination("orders") == Queue("orders")
    events = Exchange("events", "topic")
    assert broker.destination(events) is events
    for wrong in (5, None, b"orders"):
        with pytest.raises(ConfigurationError, match="is neither a Queue nor an Exchange"):
            broker.source(wrong)  # type: ignore[arg-type]


def test_an_exchange_cannot_be_subscribed_to_and_the_error_says_what_can() -> None:
    broker = RabbitBroker("amqp://localhost")
    with pytest.raises(ConfigurationError, match=r"bind a queue to it .*Exchange\('events', 'topic'\)\.binding"):
        broker.subscriber(Exchange("events", "topic"))(_handler)


async def _handler(body: bytes) -> None: ...


def test_a_missing_client_library_is_one_sentence_that_says_what_to_install() -> None:
    program = "import sys; sys.modules['pamqp'] = None; import adapters.rabbitmq"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'trio-runtime[rabbitmq]'")
