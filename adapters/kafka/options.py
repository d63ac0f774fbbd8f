"""From typed options and free properties to what librdkafka is configured with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import confluent_kafka

from runtime.errors import ConfigurationError

Properties = Mapping[str, str | int | float | bool]

#: Properties that a promise of the runtime rests on, and where to say it instead.
OWNED: Final = {
    "bootstrap.servers": "it is the broker's URL",
    "metadata.broker.list": "it is the broker's URL",
    "group.id": "give it to the Topic or the broker as group",
    "group.instance.id": "give it to the Topic as member",
    "auto.offset.reset": "give it to the Topic as start",
    "enable.auto.commit": "an offset is committed when everything below it is settled, and never before",
    "auto.commit.enable": "an offset is committed when everything below it is settled, and never before",
    "enable.auto.offset.store": "an offset is committed when everything below it is settled, and never before",
    "enable.idempotence": "every publish is idempotent",
    "acks": "a publish returns when all replicas in sync have it",
    "request.required.acks": "a publish returns when all replicas in sync have it",
    "transactional.id": "transactions are not offered",
    "delivery.timeout.ms": "it is the broker's publish_limit",
    "message.timeout.ms": "it is the broker's publish_limit",
    "delivery.report.only.error": "every publish waits for its report",
    "enable.partition.eof": "the poll thread expects records only",
    "statistics.interval.ms": "it follows the broker's probe_interval",
    "socket.connection.setup.timeout.ms": "it is the broker's connect_limit",
    "error_cb": "errors are the runtime's to report",
    "stats_cb": "the statistics are the watchdog's",
    "on_commit": "commits are the runtime's",
    "on_delivery": "reports are the runtime's",
    "dr_cb": "reports are the runtime's",
    "dr_msg_cb": "reports are the runtime's",
    "logger": "the library's log goes to the logger adapters.kafka.client",
}
#: No librdkafka will ever have it, so it is refused after all in front of it was accepted, and no client is made.
_SENTINEL: Final = "trio-runtime.end"

_client_log = logging.getLogger("adapters.kafka.client")


@dataclass(frozen=True, slots=True)
class Plain:
    """SASL PLAIN: use it with TLS only, for the password goes over the wire as it is."""

    username: str
    password: str = field(repr=False)

    @property
    def mechanism(self) -> str:
        return "PLAIN"


@dataclass(frozen=True, slots=True)
class Scram:
    """SASL SCRAM: the password never leaves the process."""

    username: str
    password: str = field(repr=False)
    hash: Literal["SHA-256", "SHA-512"] = "SHA-512"

    def __post_init__(self) -> None:
        if self.hash not in ("SHA-256", "SHA-512"):
            raise ConfigurationError(f'hash of Scram is {self.hash!r}: give "SHA-256" or "SHA-512"')

    @property
    def mechanism(self) -> str:
        return f"SCRAM-{self.hash}"


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS; the server's name is always checked.

    Args:
      authorities: a PEM file with the certificate authorities to trust; the system's by default.
      certificate, key: PEM files, for a server that asks its clients for a certificate.
      key_password: of the key file.
    """

    authorities: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    key_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigurationError("TLS has one of certificate and key: give both, or neither")


def security(auth: Plain | Scram | None, tls: TLS | None) -> dict[str, Any]:
    """The properties that typed options stand for."""
    conf: dict[str, Any] = {}
    if auth is not None:
        conf |= {
            "sasl.mechanisms": auth.mechanism,
            "sasl.username": auth.username,
            "sasl.password": auth.password,
        }
    if tls is not None:
        for name, value in {
            "ssl.ca.location": tls.authorities,
            "ssl.certificate.location": tls.certificate,
            "ssl.key.location": tls.key,
            "ssl.key.password": tls.key_password,
        }.items():
            if value is not None:
                conf[name] = os.fspath(value)
    if conf or tls is not None:
        layers = {(True, True): "SASL_SSL", (True, False): "SASL_PLAINTEXT", (False, True): "SSL"}
        conf["security.protocol"] = layers[auth is not None, tls is not None]
    return conf


def checked(properties: Properties, typed: Mapping[str, Any]) -> dict[str, Any]:
    """`properties` as librdkafka takes them. Raises `ConfigurationError`, with librdkafka's own words for what is wrong.

    No client is made and no thread started: the library reads properties one by one before it makes a client, and the
    last one here is one that it cannot know.
    """
    conf: dict[str, Any] = {}
    for name, value in properties.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{name!r} is not the name of a librdkafka property: give a string")
        if name in OWNED:
            raise ConfigurationError(f"property {name!r} is the runtime's own: {OWNED[name]}")
        if name in typed:
            raise ConfigurationError(f"property {name!r} is given twice: as an option and in properties")
        conf[name] = str(value).lower() if isinstance(value, bool) else value
    for name, value in {**typed, **conf}.items():
        try:
            confluent_kafka.Producer({name: value, _SENTINEL: ""})
        except confluent_kafka.KafkaException as error:
            said = error.args[0].str().strip()
            if _SENTINEL not in said:
                raise ConfigurationError(f"property {name!r} is refused by librdkafka: {said}") from None
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"property {name!r} is refused by confluent-kafka: {error}") from None
    return conf


@dataclass(frozen=True, slots=True)
class Settings:
    """What the clients of one broker have in common."""

    servers: str
    #: Typed options and free properties, checked.
    properties: Mapping[str, Any] = field(repr=False)
    publish_limit: float
    connect_limit: float
    probe_interval: float

    def producer(self, identity: str) -> dict[str, Any]:
        return {
            **self._common(identity),
            # A key's partition is then the one that the Java client would choose.
            "partitioner": "murmur2_random",
            # The outbox gathers while a batch is out, so waiting for more (5 ms by default) would only be added to each.
            "linger.ms": 0,
            **self.properties,
            "enable.idempotence": True,
            # The session keeps the limit, by a purge that tells what was sent from what was not. This is the backstop.
            "message.timeout.ms": _ms(self.publish_limit + 30),
        }

    def consumer(self, identity: str, group: str, member: str | None) -> dict[str, Any]:
        conf = {
            **self._common(identity),
            # Some thousand records ahead are enough for full speed, and bound what a pause throws away.
            "queued.min.messages": 10_000,
            "queued.max.messages.kbytes": 16_384,
            # Milliseconds without a fetch after these bounds were met. The default of 1000 would empty the queue.
            "fetch.queue.backoff.ms": 20,
            "allow.auto.create.topics": True,
            **({} if self._new_protocol else {"partition.assignment.strategy": "cooperative-sticky"}),
            **self.properties,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            # What the group committed may be gone (retention): going on with the oldest record skips nothing.
            "auto.offset.reset": "earliest",
        }
        if member is not None:
            conf["group.instance.id"] = member
        return conf

    @property
    def is_incremental(self) -> bool:
        """Whether a rebalance moves single partitions, and does not take all of them away first."""
        strategy = str(self.properties.get("partition.assignment.strategy", "cooperative-sticky"))
        return self._new_protocol or "cooperative" in strategy

    @property
    def _new_protocol(self) -> bool:
        return str(self.properties.get("group.protocol", "classic")).lower() == "consumer"

    def _common(self, identity: str) -> dict[str, Any]:
        return {
            "client.id": identity.replace(" ", "_"),
            "reconnect.backoff.max.ms": 2000,
            # Keeps a little traffic on an idle client, by which a silent cluster is found out.
            "topic.metadata.refresh.interval.ms": _ms(self.probe_interval),
            "socket.keepalive.enable": True,
            "bootstrap.servers": self.servers,
            "socket.connection.setup.timeout.ms": _ms(max(self.connect_limit, 1.0)),
            "statistics.interval.ms": _ms(max(self.probe_interval / 4, 0.1)),
            "logger": _LibraryLog(),
        }


class _LibraryLog:
    """The library's own log is for debugging: what matters in it is also an event, which the session reports."""

    def log(self, level: int, text: str, *args: object) -> None:
        _client_log.debug(text, *args)


def _ms(seconds: float) -> int:
    return int(min(seconds * 1000, 2**31 - 1))
