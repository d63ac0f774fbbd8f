"""What the user holds: `KafkaBroker`."""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import ClassVar, Unpack
from urllib.parse import unquote, urlsplit

from runtime.adapter import Features, Reading
from runtime.broker import Broker, BrokerOptions, hide_credentials
from runtime.dial import Dialer
from runtime.errors import ConfigurationError

from .options import TLS, Plain, Properties, Scram, Settings, checked, security
from .session import KafkaSession, open_session
from .threads import Leftovers
from .topics import Topic

#: Seconds between probes unless told otherwise: a probe asks the clients in this process and sends nothing.
PROBE_INTERVAL = 2.0


class KafkaBroker(Broker[Topic]):
    """A Kafka cluster.

    Args:
      servers: some of its servers, `HOST:PORT,HOST:PORT`, or as a URL: `kafka://[USER:PASSWORD@]HOST[:PORT],…`, whose
        user is let in by SASL PLAIN. The port is 9092 unless given.
      group: the consumer group of topics that name none.
      auth: SASL `Plain(username, password)` or `Scram(username, password)`.
      tls: True, or `TLS(...)` with files of your own.
      properties: any other property of librdkafka, by its own name, as in `{"compression.type": "lz4"}`. Checked at once,
        in librdkafka's words; what the runtime rests on is refused.
      options: see `Broker`.
    """

    features: ClassVar[Features] = Features(
        ordering="process",
        lease="session",
        attempts="session",
        groups=True,
        unroutable=False,
        lost="cancelled",
        acks="prefix",
    )
    schemes: ClassVar[tuple[str, ...]] = ("kafka",)

    def __init__(
        self,
        servers: str,
        *,
        group: str = "default",
        auth: Plain | Scram | None = None,
        tls: TLS | bool = False,
        properties: Properties = MappingProxyType({}),
        **options: Unpack[BrokerOptions],
    ) -> None:
        options.setdefault("probe_interval", PROBE_INTERVAL)
        url = f"kafka://{servers}" if isinstance(servers, str) and "://" not in servers else servers
        super().__init__(url, **options)
        if not isinstance(group, str) or not group:
            raise ConfigurationError(f"group of KafkaBroker is {group!r}: give a name")
        self.group = group
        named, user = _parse(url)
        if user is not None and auth is not None:
            raise ConfigurationError(f"{hide_credentials(url)!r} names a user, and auth is given too: give one of them")
        typed = security(auth or user, tls if isinstance(tls, TLS) else TLS() if tls else None)
        self._settings = Settings(
            servers=named,
            properties={**typed, **checked(properties, typed)},
            publish_limit=self.publish_limit,
            connect_limit=self.connect_limit,
            probe_interval=self.probe_interval,
        )
        self._leftovers = Leftovers()
        # Bounded: an application may publish to any number of names.
        self._named = functools.lru_cache(maxsize=1024)(lambda name: Topic(name, group=group))

    def source(self, spec: Topic | str) -> Topic:
        topic = self._topic(spec)
        if topic.partition is not None:
            raise ConfigurationError(
                f"topic {topic.name!r} is to be read and names partition {topic.partition}: the group assigns partitions"
            )
        return topic if topic.group is not None else replace_group(topic, self.group)

    def destination(self, spec: Topic | str) -> Topic:
        topic = self._topic(spec)
        if len(topic.names) > 1:
            raise ConfigurationError(f"{topic.name!r} names {len(topic.names)} topics: publish to one")
        return topic

    def _topic(self, spec: Topic | str) -> Topic:
        if isinstance(spec, str):
            return self._named(spec)
        if not isinstance(spec, Topic):
            raise ConfigurationError(f"{spec!r} is not a Topic: KafkaBroker takes a Topic, or a string that names one")
        return spec

    def reading(self, source: Topic) -> Reading:
        return Reading(source.names, source.group or self.group, "end" if source.start == "latest" else "beginning")

    @property
    def left_over(self) -> int:
        """Threads of closed clients that have not ended yet, because a call of theirs to a silent cluster has not."""
        return len(self._leftovers)

    def open_session(self, identity: str, dialer: Dialer) -> AbstractAsyncContextManager[KafkaSession]:
        # librdkafka resolves and connects by itself, in threads of its own.
        return open_session(identity, self._settings, self._leftovers)


def replace_group(topic: Topic, group: str) -> Topic:
    return Topic(*topic.names, group=group, start=topic.start, member=topic.member, partition=topic.partition)


def _parse(url: str) -> tuple[str, Plain | None]:
    """The servers as librdkafka takes them, and the user."""
    shown = hide_credentials(url)
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigurationError(
            f"a Kafka URL ends with its servers, and {shown!r} goes on: options are arguments here"
            " (and write / ? # in a password as %2F %3F %23)"
        )
    user: Plain | None = None
    credentials, at, hosts = parts.netloc.rpartition("@")
    if at:
        name, colon, password = credentials.partition(":")
        if not name or not colon:
            raise ConfigurationError(f"{shown!r} has no user and password: write it like kafka://USER:PASSWORD@HOST")
        user = Plain(unquote(name), unquote(password))
    servers = []
    for server in hosts.split(","):
        host, port = _host_and_port(server.strip())
        if not host:
            raise ConfigurationError(f"{shown!r} names no host: write it like kafka://localhost:9092,other:9092")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigurationError(f"the port of {server!r} is no port: give 1 to 65535")
        servers.append(f"{host}:{port}")
    return ",".join(servers), user


def _host_and_port(server: str) -> tuple[str, str]:
    if server.startswith("["):
        host, _, rest = server.partition("]")
        return f"{host}]", rest.removeprefix(":") or "9092"
    host, colon, port = server.partition(":")
    return host, port if colon else "9092"
