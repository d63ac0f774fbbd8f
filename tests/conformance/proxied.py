"""What the rigs of real servers share: a process to freeze, and a proxy in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from runtime.testing.conformance import Rig

from ..bench.process import ServerProcess
from ..bench.proxy import Proxy

S = TypeVar("S", bound=ServerProcess)


class ProxiedRig(Rig, Generic[S]):
    def __init__(self, server: S, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        self.proxy.refuse()
        self.proxy.reset()
        try:
            yield
        finally:
            self.proxy.forward()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        self.server.freeze()
        try:
            yield
        finally:
            self.server.thaw()
