"""What the user holds: `MemoryBroker`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import ClassVar, Unpack

import trio

from runtime.adapter import Features, Reading
from runtime.broker import Broker, BrokerOptions
from runtime.dial import Dialer
from runtime.errors import ConfigurationError

from .server import MemoryServer
from .session import MemorySession
from .topics import Topic


class MemoryBroker(Broker[Topic]):
    """The embedded broker.

    Args:
      url: `memory://`, and nothing else.
      server: the topics to use; its own by default. They outlive a run, as another broker's server would.
      options: see `Broker`.
    """

    features: ClassVar[Features] = Features(
        ordering="process", lease="session", attempts="broker", groups=True, unroutable=False
    )
    schemes: ClassVar[tuple[str, ...]] = ("memory",)

    def __init__(
        self, url: str = "memory://", *, server: MemoryServer | None = None, **options: Unpack[BrokerOptions]
    ) -> None:
        super().__init__(url, **options)
        if url != "memory://":
            raise ConfigurationError(f"{url!r} is not a URL of the embedded broker: it has only memory://")
        self.server = MemoryServer() if server is None else server

    def source(self, spec: Topic | str) -> Topic:
        if isinstance(spec, str):
            return Topic(spec)
        if not isinstance(spec, Topic):
            raise ConfigurationError(f"{spec!r} is not a Topic: MemoryBroker reads a Topic, or a string that names one")
        return spec

    @property
    def server_identity(self) -> Hashable:
        return self.server

    def reading(self, source: Topic) -> Reading:
        return Reading((source.name,), source.group, source.start)

    @asynccontextmanager
    async def open_session(self, identity: str, dialer: Dialer) -> AsyncIterator[MemorySession]:
        await trio.lowlevel.checkpoint()
        yield MemorySession(self.server)
