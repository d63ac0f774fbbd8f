"""What a type checker says about users' code: mypy is the judge, and running it shows that Python agrees.

Each misuse carries an ignore with its code, and an ignore that is not needed is an error of its own.
"""

from __future__ import annotations

from typing import assert_type

import pytest

from adapters.memory import MemoryBroker, Topic
from adapters.redis import RedisBroker, Stream
from runtime import ConfigurationError, Message, NotServing, Router
from runtime.adapter import Features
from runtime.run import Run
from runtime.status import Status

MESSAGE = Message(body=b"7", id="m1", destination="orders")

redis = RedisBroker("redis://localhost")
memory = MemoryBroker()
router = Router()


@redis.subscriber(Stream("orders", group="billing"), concurrency=100, ordered_by="key")
@redis.publisher("invoices")
async def bill(order: int, message: Message) -> str:
    return f"{message.id}: {order}"


@router.subscriber("orders")
@memory.publisher(Topic("invoices"))
async def audit(order: int, *, message: Message) -> None: ...


@memory.task
async def feed() -> float:
    return 1.5


async def test_a_decorated_handler_keeps_its_own_type() -> None:
    assert assert_type(await bill(7, MESSAGE), str) == "m1: 7"
    assert assert_type(await bill(order=7, message=MESSAGE), str) == "m1: 7"
    await audit(7, message=MESSAGE)
    assert assert_type(await feed(), float) == 1.5


async def test_a_decorated_handler_called_wrongly_is_an_error() -> None:
    await bill("7", MESSAGE)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        await bill(7)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        await audit(7, MESSAGE)  # type: ignore[call-arg]


async def _handle(body: int) -> None: ...


def test_a_broker_takes_a_source_of_its_own_or_a_string() -> None:
    assert redis.subscriber(Stream("a"))(_handle) is redis.subscriber("b")(_handle)
    assert memory.subscriber(Topic("a"))(_handle) is memory.subscriber("b")(_handle)
    assert_type(redis.source("a"), Stream)
    assert_type(memory.destination("a"), Topic)
    assert_type(redis.features, Features)


def test_the_source_of_another_broker_is_an_error() -> None:
    with pytest.raises(ConfigurationError):
        redis.subscriber(Topic("a"))(_handle)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        memory.subscriber(Stream("a"))(_handle)  # type: ignore[arg-type]
    router.subscriber(Stream("a"))  # type: ignore[arg-type]


def test_a_sync_handler_is_an_error() -> None:
    def handle(body: int) -> None: ...

    with pytest.raises(ConfigurationError):
        redis.subscriber("a")(handle)  # type: ignore[type-var]
    redis.publisher("a")(handle)  # type: ignore[type-var]
    with pytest.raises(ConfigurationError):
        redis.task(handle)  # type: ignore[type-var]


def test_an_option_of_the_wrong_type_is_an_error() -> None:
    with pytest.raises(ConfigurationError):
        redis.subscriber("a", concurrency="10")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        redis.subscriber("a", ordered_by="value")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        redis.subscriber("a", retries=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError):
        Stream("a", start="middle")  # type: ignore[arg-type]


async def test_a_publish_returns_an_id_and_takes_no_other_brokers_destination() -> None:
    with pytest.raises(NotServing):
        assert_type(await redis.publish({"a": 1}, Stream("a"), headers={"b": "c"}), str)
    with pytest.raises(NotServing):
        await redis.publish(b"", Topic("a"))  # type: ignore[arg-type]
    with pytest.raises(NotServing):
        await redis.publish(b"", "a", headers={"b": 1})  # type: ignore[dict-item]


def test_a_message_is_read_only_to_the_type_checker_too() -> None:
    with pytest.raises(AttributeError):
        MESSAGE.key = "k"  # type: ignore[misc]
    with pytest.raises(TypeError):
        MESSAGE.headers["a"] = "b"  # type: ignore[index]
    assert_type(MESSAGE.key, str | None)


def _what_only_the_type_checker_reads(run: Run) -> None:
    assert_type(run.status(), Status)
    assert_type(run.status().ready, bool)
