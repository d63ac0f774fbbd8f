"""The embedded broker passes the conformance suite."""

from __future__ import annotations

from typing import Unpack

from adapters.memory import MemoryBroker, MemoryServer, Topic
from runtime.broker import BrokerOptions
from runtime.testing.conformance import AdapterConformance, Rig


class MemoryRig(Rig):
    features = MemoryBroker.features

    def __init__(self) -> None:
        self.server = MemoryServer()

    def make_broker(self, **options: Unpack[BrokerOptions]) -> MemoryBroker:
        return MemoryBroker(server=self.server, **options)

    def source(self, name: str, group: str | None = None) -> Topic:
        return Topic(name, group=group or "default")


class TestMemory(AdapterConformance):
    rig_type = MemoryRig
