"""What the user names: queues, exchanges, and the bindings between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from runtime.errors import ConfigurationError

QueueType = Literal["classic", "quorum"]
ExchangeType = Literal["direct", "fanout", "topic", "headers"]
Argument = str | int | bool

#: Bytes in a name or a routing key: AMQP gives their length one byte.
MAX_NAME: Final = 255
#: The server counts in milliseconds, and takes no more of them than this (2**32 - 1: 49 days).
MAX_SECONDS: Final = (2**32 - 1) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """How messages are sent to a queue or an exchange; base of both.

    Args:
      mandatory: a message that no queue gets raises `Unroutable`. Without it, it is lost in silence.
      persistent: messages survive a restart of the server, in queues that do.
      priority: of the messages, 0 to 255; only in a queue with `max_priority`.
      expiration: seconds after which a message that nobody took is dropped, or dead-lettered.
    """

    mandatory: bool = True
    persistent: bool = True
    priority: int | None = None
    expiration: float | None = None

    def _check_delivery(self, what: str) -> None:
        for option, value in {"mandatory": self.mandatory, "persistent": self.persistent}.items():
            _check_bool(value, f"{option} of {what}")
        _check_count(self.priority, f"priority of {what}", 0, 255)
        _check_seconds(self.expiration, f"expiration of {what}")


@dataclass(frozen=True, slots=True)
class Exchange(Destination):
    """An exchange to publish to; queues are bound to it. Declared on every session.

    Args:
      name: its name.
      type: what it compares: `direct` the routing key, `topic` the key with patterns, `headers` the headers, `fanout`
        nothing.
      durable: it survives a restart of the server.
      routing_key: of the messages published; by default each message's key, or nothing if it has none.
    """

    name: str
    type: ExchangeType = "direct"
    durable: bool = True
    routing_key: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, "name of an Exchange", "give the name of the exchange")
        what = f"exchange {self.name!r}"
        _check_choice(self.type, get_args(ExchangeType), f"type of {what}")
        _check_bool(self.durable, f"durable of {what}")
        if self.routing_key is not None:
            _check_name(self.routing_key, f"routing_key of {what}", "give a string", may_be_empty=True)
        self._check_delivery(what)

    def binding(
        self, key: str | None = None, *, headers: Mapping[str, str] | None = None, match: Literal["all", "any"] = "all"
    ) -> Binding:
        """What of this exchange a queue gets, for `Queue(..., bindings=[...])`.

        Args:
          key: direct: the routing key. topic: a pattern of words between dots, where `*` is one and `#` any number.
          headers: headers exchange: values that a message must have.
          match: whether it must have all of them or any.
        """
        return Binding(self, key or "", tuple(sorted((headers or {}).items())), match, key is None)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Binding:
    """Made by `Exchange.binding`."""

    exchange: Exchange
    key: str
    headers: tuple[tuple[str, str], ...]
    match: Literal["all", "any"]
    keyless: bool = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        exchange = self.exchange
        what = f"a binding to {exchange.type} exchange {exchange.name!r}"
        _check_name(self.key, f"key of {what}", "give a string", may_be_empty=True)
        _check_choice(self.match, ("all", "any"), f"match of {what}")
        if exchange.type in ("direct", "topic") and self.keyless:
            raise ConfigurationError(f"{what} has no key: say which messages, like binding('orders.created')")
        if exchange.type in ("fanout", "headers") and not self.keyless:
            raise ConfigurationError(f"{what} has the key {self.key!r}, which such an exchange does not look at")
        if exchange.type == "headers" and not self.headers:
            raise ConfigurationError(f"{what} names no headers: say which, like binding(headers={{'tenant': 'acme'}})")
        if exchange.type != "headers" and self.headers:
            raise ConfigurationError(f"{what} has headers, which only a headers exchange looks at")
        for name, value in self.headers:
            _check_name(name, f"a header of {what}", "give a string")
            if not isinstance(value, str):
                raise ConfigurationError(f"header {name!r} of {what} is {value!r}: give a string")
            if name.startswith("x-"):
                raise ConfigurationError(f"header {name!r} of {what} begins with x-: RabbitMQ never compares those")

    @property
    def arguments(self) -> dict[str, Argument]:
        """As they go to the server."""
        return {**dict(self.headers), "x-match": self.match} if self.headers else {}


@dataclass(frozen=True, slots=True)
class Queue(Destination):
    """A queue to consume from and to publish to, through the default exchange. Declared on every session.

    Of one that exists already everything said here must be true, else opening it or publishing to it is refused. A queue
    of which nothing but the name is said, like one that a plain string names, is taken as it is found.

    Args:
      name: its name.
      type: `classic`, or `quorum`, which is replicated; classic by default. What is given back keeps its place in a classic
        queue, and goes to the end of a quorum queue: there `ordered_by` holds until a session ends or a run drains.
      durable: it survives a restart of the server.
      bindings: the exchanges that it gets messages from: `[orders.binding("orders.*")]`, or just the exchange where
        that is enough. Each exchange is declared, too.
      dead_letter_exchange: where messages go that expired, or that a handler's failure set aside, in place of the
        queue `NAME.rejected`. An `Exchange` is declared, too; a string is the name of one that exists, "" the default.
      dead_letter_routing_key: what they are sent there with; by default what they were sent with.
      message_ttl: seconds after which a message that nobody took is dropped, or dead-lettered.
      expires: seconds without a consumer after which the queue itself is deleted.
      max_length: messages that it keeps.
      overflow: what becomes of a message too many: `drop-head` drops, or dead-letters, the oldest; `reject-publish`
        refuses the new one.
      max_priority: classic only: it keeps priorities from 0 to this, at most 255; the server advises at most 10.
      single_active_consumer: of many consumers only one gets messages, and the next when it is gone.
      delivery_limit: quorum only: a message handed out more often than this is dropped, or dead-lettered.
    """

    name: str
    type: QueueType | None = None
    durable: bool = True
    bindings: Iterable[Binding | Exchange] = ()
    dead_letter_exchange: Exchange | str | None = None
    dead_letter_routing_key: str | None = None
    message_ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    overflow: Literal["drop-head", "reject-publish"] | None = None
    max_priority: int | None = None
    single_active_consumer: bool = False
    delivery_limit: int | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, "name of a Queue", "give the name of the queue")
        what = f"queue {self.name!r}"
        _check_choice(self.type, (None, *get_args(QueueType)), f"type of {what}")
        for option in ("durable", "single_active_consumer"):
            _check_bool(getattr(self, option), f"{option} of {what}")
        object.__setattr__(self, "bindings", tuple(_binding(each, what) for each in self._listed_bindings(what)))
        target = self.dead_letter_exchange
        if target is not None and not isinstance(target, Exchange):
            _check_name(target, f"dead_letter_exchange of {what}", "give an Exchange or a name", may_be_empty=True)
        if self.dead_letter_routing_key is not None:
            key = self.dead_letter_routing_key
            _check_name(key, f"dead_letter_routing_key of {what}", "give a string", may_be_empty=True)
            if target is None:
                raise ConfigurationError(f"{what} has a dead_letter_routing_key and no dead_letter_exchange")
        _check_seconds(self.message_ttl, f"message_ttl of {what}")
        _check_seconds(self.expires, f"expires of {what}", least=0.001)
        _check_count(self.max_length, f"max_length of {what}", 1, 2**31 - 1)
        _check_count(self.max_priority, f"max_priority of {what}", 1, 255)
        _check_count(self.delivery_limit, f"delivery_limit of {what}", 1, 2**31 - 1)
        _check_choice(self.overflow, (None, "drop-head", "reject-publish"), f"overflow of {what}")
        self._check_type(what)
        self._check_delivery(what)

    def _listed_bindings(self, what: str) -> list[Binding | Exchange]:
        given: object = self.bindings
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ConfigurationError(f"bindings of {what} is {given!r}: give a list of bindings")
        return list(given)

    def _check_type(self, what: str) -> None:
        if self.type == "quorum":
            if not self.durable:
                raise ConfigurationError(f"{what} is a quorum queue, which is always durable")
            if self.max_priority is not None or self.priority is not None:
                raise ConfigurationError(f"{what} is a quorum queue, which keeps no priorities")
        elif self.delivery_limit is not None:
            raise ConfigurationError(
                f"{what} has a delivery_limit, which only a quorum queue keeps: give type='quorum'"
            )

    @property
    def arguments(self) -> dict[str, Argument]:
        """As they go to the server; times in milliseconds."""
        target = self.dead_letter_exchange
        given: dict[str, Argument | None] = {
            "x-queue-type": self.type,
            "x-dead-letter-exchange": target.name if isinstance(target, Exchange) else target,
            "x-dead-letter-routing-key": self.dead_letter_routing_key,
            "x-message-ttl": _milliseconds(self.message_ttl),
            "x-expires": _milliseconds(self.expires),
            "x-max-length": self.max_length,
            "x-overflow": self.overflow,
            "x-max-priority": self.max_priority,
            "x-single-active-consumer": self.single_active_consumer or None,
            "x-delivery-limit": self.delivery_limit,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_bare(self) -> bool:
        """Nothing but its name is said."""
        return self.durable and not self.arguments

    @property
    def bound(self) -> tuple[Binding, ...]:
        """The bindings, each spelled out."""
        return self.bindings  # type: ignore[return-value]

    @property
    def exchanges(self) -> list[Exchange]:
        """Every exchange that has to be there for it."""
        target = self.dead_letter_exchange
        return [*(b.exchange for b in self.bound), *([target] if isinstance(target, Exchange) else [])]

    def __str__(self) -> str:
        return self.name


def rejected(queue: Queue) -> Queue:
    """Where the messages go that `queue` set aside; taken as it is found."""
    return Queue(f"{queue.name}.rejected")


def _binding(each: object, what: str) -> Binding:
    if isinstance(each, Exchange):
        return each.binding()
    if isinstance(each, Binding):
        return each
    raise ConfigurationError(f"{each!r} binds {what} to nothing: give an Exchange, or what its binding() returned")


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _check_name(value: object, what: str, remedy: str, *, may_be_empty: bool = False) -> None:
    if not isinstance(value, str) or not (value or may_be_empty):
        raise ConfigurationError(f"{what} is {value!r}: {remedy}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} is {value!r}, which is no text: no wire can carry it") from None
    if size > MAX_NAME:
        raise ConfigurationError(f"{what} is {size} bytes long: AMQP has room for {MAX_NAME}")


def _check_bool(value: object, what: str) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} is {value!r}: give True or False")


def _check_choice(value: object, choices: tuple[str | None, ...], what: str) -> None:
    if value not in choices:
        known = " or ".join(f'"{choice}"' for choice in choices if choice is not None)
        raise ConfigurationError(f"{what} is {value!r}: give {known}")


def _check_count(value: object, what: str, least: int, most: int) -> None:
    # True is an int to Python, and no number to RabbitMQ.
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise ConfigurationError(f"{what} is {value!r}: give a number from {least} to {most}")


def _check_seconds(value: object, what: str, least: float = 0.0) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= MAX_SECONDS:
        raise ConfigurationError(f"{what} is {value!r}: give seconds from {least:g} to {math.floor(MAX_SECONDS)}")
