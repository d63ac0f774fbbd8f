"""Where a fault happens: a kind of broker, and a server of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import trio

from runtime import Broker

from ..bench.process import ServerProcess
from ..bench.proxy import Proxy, open_proxy
from ..bench.recorder import Recorder
from ..bench.traffic import Traffic


@dataclass(frozen=True)
class Place:
    """A server, and how to make brokers for it."""

    #: What the fault table calls it.
    kind: str
    server: ServerProcess
    broker_type: type[Broker[Any]]
    #: With {host} and {port}.
    url_format: str
    #: So many acks, at most, a server that is killed has taken and not yet on its disk: what they settled comes again.
    acks_in_memory: int = 0
    #: Its library looks names up, connects and reconnects by itself: a session outlives its connections, silence makes it
    #: degraded and no more, and what was acked on one connection is acked on the next.
    connects_itself: bool = False
    #: Arguments of every broker.
    options: Mapping[str, object] = field(default_factory=dict)

    def url(self, port: int | None = None, host: str = "127.0.0.1") -> str:
        return self.url_format.format(host=host, port=self.server.port if port is None else port)

    def broker(self, port: int | None = None, *, host: str = "127.0.0.1", **options: Any) -> Broker[Any]:
        """One for the server itself, or for a proxy's `port`."""
        return self.broker_type(self.url(port, host), **{**self.options, **options})

    def open_proxy(self) -> AbstractAsyncContextManager[Proxy]:
        """For `broker(proxy.port)`, whose every connection goes through it."""
        return open_proxy(self.server.port)

    def at_risk(self, load: Traffic) -> int:
        """Messages that a fault of the connection, now, may make the server deliver again."""
        return load.unsettled if self.connects_itself else load.at_risk

    async def at_rest(self) -> None:
        """Wait until what closed brokers could not end in time has ended, where there is such a thing."""

    def recorder(self, number: int, fault: str) -> Recorder:
        return Recorder(number, fault, broker=self.kind)

    def module(self, text: str, port: int | None = None, *, host: str = "127.0.0.1", **values: object) -> str:
        """`text` with the {name} of the broker's class, its {module}, its {arguments} and whatever else is in it."""
        name, module = self.broker_type.__name__, self.broker_type.__module__.rpartition(".")[0]
        arguments = ", ".join(
            [repr(self.url(port, host)), *(f"{key}={value!r}" for key, value in self.options.items())]
        )
        return text.format(module=module, name=name, arguments=arguments, **values)


def record_handled(broker: Broker[Any], recorder: Recorder | None = None, source: Any = "orders") -> list[int]:
    """Subscribe to `source`; the list is what was handled so far."""
    handled: list[int] = []

    @broker.subscriber(source)
    async def handle(number: int) -> None:
        handled.append(number)
        if recorder is not None:
            recorder.handled(number)

    return handled


async def slowest_publish(broker: Broker[Any], numbers: range, recorder: Recorder | None = None) -> float:
    """Publish them one by one to `orders`; the seconds that the slowest took."""
    slowest = 0.0
    for number in numbers:
        began = trio.current_time()
        await broker.publish(number, "orders")
        slowest = max(slowest, trio.current_time() - began)
        if recorder is not None:
            recorder.confirmed(number)
    return slowest
