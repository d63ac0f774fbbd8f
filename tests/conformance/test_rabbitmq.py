"""RabbitMQ passes the conformance suite, on a real server, behind a proxy, over both of its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar, Literal, Unpack

import pika
import pytest

from adapters.rabbitmq import Exchange, Queue, RabbitBroker
from runtime.broker import BrokerOptions
from runtime.message import NO_HEADERS
from runtime.testing.conformance import AdapterConformance

from ..bench.proxy import open_proxy
from ..bench.rabbit import RabbitServer
from .proxied import ProxiedRig

pytestmark = pytest.mark.broker("rabbitmq")


class RabbitRig(ProxiedRig[RabbitServer]):
    features = RabbitBroker.features
    connection: ClassVar[Literal["native", "aio-pika"]] = "native"

    def make_broker(self, **options: Unpack[BrokerOptions]) -> RabbitBroker:
        return RabbitBroker(f"amqp://127.0.0.1:{self.proxy.port}/", connection=self.connection, **options)

    def source(self, name: str, group: str | None = None) -> Queue:
        return Queue(name)

    def nowhere(self, name: str) -> Exchange:
        return Exchange(name, routing_key="nobody")  # a queue would be declared by the publish

    async def foreign_publish(self, name: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        with self.server.vhost.channel() as channel:
            channel.basic_publish("", name, body, pika.BasicProperties(headers=dict(headers)))


class TestNative(AdapterConformance):
    rig_type = RabbitRig

    @pytest.fixture
    async def rig(self, shared_rabbit: RabbitServer) -> AsyncIterator[RabbitRig]:
        async with open_proxy(shared_rabbit.port) as proxy:
            yield RabbitRig(shared_rabbit, proxy)


class AioPikaRig(RabbitRig):
    connection = "aio-pika"


class TestAioPika(AdapterConformance):
    rig_type = AioPikaRig

    @pytest.fixture
    async def rig(self, shared_rabbit: RabbitServer) -> AsyncIterator[AioPikaRig]:
        async with open_proxy(shared_rabbit.port) as proxy:
            yield AioPikaRig(shared_rabbit, proxy)
