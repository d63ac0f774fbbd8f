"""What the user holds: `RabbitBroker`."""

from __future__ import annotations

import functools
import importlib.util
import ssl
import sys
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Literal, Unpack

from runtime.adapter import Features, Session
from runtime.broker import Broker, BrokerOptions
from runtime.dial import Dialer
from runtime.errors import ConfigurationError, Unroutable
from runtime.message import Message

from .address import addresses
from .queues import Exchange, Queue
from .routing import route
from .session import open_session

#: Seconds. RabbitMQ's documentation calls 5 to 20 the best for most; a silent peer is given up after twice as long.
HEARTBEAT = 20


class RabbitBroker(Broker[Queue | Exchange]):
    """RabbitMQ, 3.10 or later: a server, or a cluster.

    Args:
      url: `amqp://[USER:PASSWORD@]HOST[:PORT]/[VHOST]`, `amqps://` for TLS. Who names no user is guest, whom a server
        lets in from its own machine only. A virtual host with a / in it is written with %2F.
      nodes: the other nodes of the cluster, `HOST` or `HOST:PORT`, tried in turn after the URL's; each gets its share of
        `connect_limit`.
      tls: for `amqps://`, in place of the system's certificate authorities. A client certificate is loaded into it.
      heartbeat: seconds; the server may ask for less. Each side gives up the other after twice as long without a byte.
      connection: `native`, or `aio-pika`, which needs the rabbitmq-aio extra.
      options: see `Broker`.
    """

    features: ClassVar[Features] = Features(
        ordering="process", lease="session", attempts="session", groups=False, unroutable=True
    )
    schemes: ClassVar[tuple[str, ...]] = ("amqp", "amqps")

    def __init__(
        self,
        url: str,
        *,
        nodes: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
        heartbeat: int = HEARTBEAT,
        connection: Literal["native", "aio-pika"] = "native",
        **options: Unpack[BrokerOptions],
    ) -> None:
        super().__init__(url, **options)
        if type(heartbeat) is not int or not 1 <= heartbeat <= 65535:
            raise ConfigurationError(f"heartbeat of RabbitBroker is {heartbeat!r}: give whole seconds from 1 to 65535")
        if connection not in ("native", "aio-pika"):
            raise ConfigurationError(f'connection of RabbitBroker is {connection!r}: give "native" or "aio-pika"')
        if connection == "aio-pika":
            _check_aio_pika()
        self.heartbeat = heartbeat
        self.connection = connection
        self._addresses = addresses(url, nodes, tls)
        # Bounded: an application may publish to any number of names.
        self._named = functools.lru_cache(maxsize=1024)(Queue)

    def source(self, spec: Queue | Exchange | str) -> Queue:
        if isinstance(spec, Exchange):
            raise ConfigurationError(
                f"exchange {spec.name!r} keeps no messages to read: bind a queue to it and read that, like "
                f"Queue('NAME', bindings=[Exchange({spec.name!r}, {spec.type!r}).binding(...)])"
            )
        queue = self.destination(spec)
        assert isinstance(queue, Queue)
        return queue

    def destination(self, spec: Queue | Exchange | str) -> Queue | Exchange:
        if isinstance(spec, str):
            return self._named(spec)
        if not isinstance(spec, Queue | Exchange):
            raise ConfigurationError(
                f"{spec!r} is neither a Queue nor an Exchange: RabbitBroker takes one, or a string that names a queue"
            )
        return spec

    def route(
        self, message: Message, destination: Queue | Exchange, declared: Collection[Queue | Exchange]
    ) -> Sequence[str]:
        if isinstance(destination, Queue):
            return (destination.name,)  # declared by whoever publishes to it
        queues = route([queue for queue in declared if isinstance(queue, Queue)], destination, message)
        if not queues and destination.mandatory:
            raise Unroutable(f"no queue gets message {message.id} to exchange {destination.name!r}")
        return [queue.name for queue in queues]

    def open_session(self, identity: str, dialer: Dialer) -> AbstractAsyncContextManager[Session]:
        # Imported only when chosen: asyncio and its bridge to Trio change the process that imports them.
        if self.connection == "aio-pika":
            from .aio import open_aio_connection as open_connection
        else:
            from .native import open_native_connection as open_connection
        return open_session(
            open_connection,
            self._addresses,
            identity,
            dialer,
            heartbeat=self.heartbeat,
            connect_limit=self.connect_limit,
            publish_limit=self.publish_limit,
        )


def _check_aio_pika() -> None:
    """Whether `connection="aio-pika"` can be had, found out without importing any of it."""
    if sys.version_info >= (3, 14):
        raise ConfigurationError('connection="aio-pika" needs trio-asyncio, which ends with Python 3.13: use "native"')
    for package in ("aiormq", "trio_asyncio"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f'connection="aio-pika" needs {package}, which comes with an extra: '
                "pip install 'trio-runtime[rabbitmq-aio]'"
            )
