"""Where the faults of `stories` happen to a RabbitMQ."""

from __future__ import annotations

from adapters.rabbitmq import RabbitBroker

from ..bench.rabbit import Vhost
from .stories import Place


def place(vhost: Vhost) -> Place:
    name = vhost.name.removeprefix("/")
    return Place("rabbitmq", vhost.server, RabbitBroker, f"amqp://guest:guest@{{host}}:{{port}}/{name}")
