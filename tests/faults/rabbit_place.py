"""Where the faults of `stories` happen to a RabbitMQ."""

from __future__ import annotations

from typing import Literal

from adapters.rabbitmq import RabbitBroker

from ..bench.rabbit import Vhost
from .place import Place

Connection = Literal["native", "aio-pika"]


def place(vhost: Vhost, connection: Connection = "native") -> Place:
    name = vhost.name.removeprefix("/")
    kind = "rabbitmq" if connection == "native" else f"rabbitmq, {connection}"
    url = f"amqp://guest:guest@{{host}}:{{port}}/{name}"
    # It writes acks together with the next messages that it confirms, a fraction of a second later.
    return Place(kind, vhost.server, RabbitBroker, url, acks_in_memory=1_000, options={"connection": connection})
