"""From declarations to the live objects of a run: everything that can be wrong with them is found here, before any I/O."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .broker import Broker
from .broker_run import BrokerRun
from .declarations import Declarations, ResultPublisher, Subscriber, compose
from .endpoint import PublishResult, compile_endpoint
from .errors import ConfigurationError
from .handler import Function, Handler
from .intake import Intake
from .message import Message
from .outside import Outside


@dataclass(frozen=True, slots=True)
class Binding:
    """Declarations and the broker that they are for: a broker with itself, a router with the one it was included for."""

    declarations: Declarations[Any]
    broker: Broker[Any]


def compile_brokers(
    bindings: Sequence[Binding], intake: Intake, outside: Outside
) -> dict[Declarations[Any], BrokerRun]:
    """The live broker for each of `bindings`. Raises `ConfigurationError`."""
    live: dict[Declarations[Any], BrokerRun] = {}
    names: set[str] = set()
    for binding in bindings:
        if binding.declarations is binding.broker:
            live[binding.broker] = BrokerRun(binding.broker, unique_name(binding.broker.name, names), intake, outside)
    for binding in bindings:
        live[binding.declarations] = live[binding.broker]
    publishers = [
        (declared, live[binding.declarations]) for binding in bindings for declared in binding.declarations.publishers
    ]
    handled: list[Function] = []
    for binding in bindings:
        for subscriber in binding.declarations.subscribers:
            handled.append(inspect.unwrap(subscriber.handler.function))
            _subscribe(live[binding.broker], subscriber, publishers)
    for declared, target in publishers:
        if inspect.unwrap(declared.function) not in handled:
            raise ConfigurationError(
                f"{Handler(declared.function).name} is a publisher of {str(declared.destination)!r} on "
                f"{target.name!r}, but nothing subscribes it: add @subscriber, or call publish() yourself"
            )
    return live


def _subscribe(
    live: BrokerRun, subscriber: Subscriber[Any], publishers: Sequence[tuple[ResultPublisher[Any], BrokerRun]]
) -> None:
    function = inspect.unwrap(subscriber.handler.function)
    source = live.broker.source(subscriber.source)
    for other in live.subscriptions:
        if str(other.source) == str(source):
            raise ConfigurationError(
                f"{subscriber.handler.name} and {other.dispatch.handler} both subscribe {source} on {live.name!r}, so "
                "each would see a random half of the messages: give one of them another group"
            )
    endpoint = compile_endpoint(
        subscriber.handler,
        subscriber.codec or live.broker.codec,
        [_publish_result(d, target) for d, target in publishers if inspect.unwrap(d.function) == function],
        live.outside.observe,
    )
    live.subscribe(
        source,
        subscriber.handler.name,
        endpoint,
        concurrency=subscriber.concurrency,
        prefetch=subscriber.prefetch,
        ordered=subscriber.ordered_by is not None,
    )


def _publish_result(declared: ResultPublisher[Any], target: BrokerRun) -> PublishResult:
    target.broker.destination(declared.destination)  # refused now, not with the first result

    async def publish(result: Any, handled: Message) -> None:
        correlation_id = handled.correlation_id or handled.id
        outgoing = compose(target, result, declared.destination, key=handled.key, correlation_id=correlation_id)
        # No limit: the handler has done its work, so while the other broker is away the pipeline pauses here with the
        # result in hand, instead of doing the work again (P1).
        await target.outbox.publish(outgoing, limit=math.inf)

    return publish


def unique_name(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate)
    return candidate
