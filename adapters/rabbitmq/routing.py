"""Which queues get a message: RabbitMQ's rules, as a pure function. What a simulation of the server routes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.message import Message

from .queues import Binding, Exchange, Queue


def routing_key(destination: Queue | Exchange, message: Message) -> str:
    """What `message` is sent to `destination` with."""
    if isinstance(destination, Queue):
        return destination.name
    return (message.key or "") if destination.routing_key is None else destination.routing_key


def route(queues: Iterable[Queue], destination: Queue | Exchange, message: Message) -> list[Queue]:
    """Those of the declared `queues` that get `message`; each at most once, in their order."""
    if isinstance(destination, Queue):
        return [queue for queue in queues if queue.name == destination.name]
    key = routing_key(destination, message)
    return [
        queue
        for queue in queues
        if any(b.exchange.name == destination.name and matches(b, key, message.headers) for b in queue.bound)
    ]


def matches(binding: Binding, key: str, headers: Mapping[str, str]) -> bool:
    match binding.exchange.type:
        case "fanout":
            return True
        case "direct":
            return binding.key == key
        case "topic":
            return topic_matches(binding.key, key)
        case "headers":
            found = [headers.get(name) == value for name, value in binding.headers]
            return all(found) if binding.match == "all" else any(found)


def topic_matches(pattern: str, key: str) -> bool:
    """Whether the words of `key` are those of `pattern`, where `*` is any one and `#` any number, also none."""
    words = _words(key)
    # How many of the first words the pattern so far can have eaten: no recursion, so no pattern is slow.
    eaten = {0}
    for part in _words(pattern):
        if part == "#":
            eaten = set(range(min(eaten), len(words) + 1))
        else:
            eaten = {n + 1 for n in eaten if n < len(words) and part in ("*", words[n])}
        if not eaten:
            return False
    return len(words) in eaten


def _words(text: str) -> list[str]:
    # To RabbitMQ nothing at all has no words, not one that is empty.
    return text.split(".") if text else []
