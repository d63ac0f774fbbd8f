"""Which queues get a message: the rules by themselves. A test on a real server says that they are RabbitMQ's."""

from __future__ import annotations

import pytest

from adapters.rabbitmq import Exchange, Queue
from adapters.rabbitmq.routing import route, topic_matches
from runtime import Message


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("*.*", ".", True),
        ("#.b", "b", True),
        ("#.b", "a.b.b", True),
        ("#.b", "a.b.c", False),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True),
        ("#.*", "", False),
        ("#.#", "", True),
        ("a.#.*.c", "a.c", False),
        ("a.#.*.c", "a.b.c", True),
    ],
)
def test_topics(pattern: str, key: str, expected: bool) -> None:
    assert topic_matches(pattern, key) is expected


def test_a_pattern_of_many_hashes_is_not_slow() -> None:
    assert not topic_matches(".".join(["#", "a"] * 60), ".".join(["a"] * 200 + ["b"]))


def names(queues: list[Queue], destination: Queue | Exchange, **fields: object) -> list[str]:
    message = Message(body=b"", id="1", destination=destination.name, **fields)  # type: ignore[arg-type]
    return [queue.name for queue in route(queues, destination, message)]


def test_each_type_of_exchange_compares_what_it_says() -> None:
    direct, fanout = Exchange("direct"), Exchange("fanout", "fanout")
    topic, headers = Exchange("topic", "topic"), Exchange("headers", "headers")
    queues = [
        Queue("a", bindings=[direct.binding("x"), fanout, topic.binding("x.*"), topic.binding("#")]),
        Queue("b", bindings=[fanout, headers.binding(headers={"p": "1", "q": "2"})]),
        Queue("c", bindings=[headers.binding(headers={"p": "1", "q": "2"}, match="any")]),
    ]
    assert names(queues, Queue("b")) == ["b"]
    assert names(queues, Queue("missing")) == []
    assert names(queues, direct, key="x") == ["a"]
    assert names(queues, direct, key="y") == []
    assert names(queues, Exchange("direct", routing_key="x"), key="y") == ["a"]
    assert names(queues, fanout) == ["a", "b"]
    assert names(queues, topic, key="x.y") == ["a"]
    assert names(queues, headers, headers={"p": "1", "q": "2"}) == ["b", "c"]
    assert names(queues, headers, headers={"p": "1"}) == ["c"]
    assert names(queues, headers, headers={"p": "2"}) == []
