"""Redis Streams on a real server."""

from __future__ import annotations

import pytest
import trio

from adapters.redis import RedisBroker, Stream
from runtime import Message, Runtime

from .bench.servers import RedisServer
from .bench.waiting import until

pytestmark = pytest.mark.broker


async def test_what_another_program_added_is_read_as_well_as_it_can_be(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    seen: list[tuple[object, Message]] = []
    enough = trio.Event()

    @broker.subscriber("orders", concurrency=1)
    async def handle(body: object, message: Message) -> None:
        seen.append((body, message))
        if len(seen) == 3:
            enough.set()

    with redis_process.client() as client:
        first = client.xadd("orders", {"anything": '{"id": 1}'})
        client.xadd("orders", {"id": "2", "total": "9.5"})
        client.xadd("orders", {"body": '{"id": 3}', "tenant": "acme"})
    async with Runtime(broker).open():
        with trio.fail_after(5):
            await enough.wait()
    assert [body for body, _ in seen] == [{"id": 1}, {"id": "2", "total": "9.5"}, {"id": 3}]
    assert isinstance(first, bytes)
    assert seen[0][1].id == first.decode()
    assert seen[2][1].headers == {"tenant": "acme"}


async def test_group_names_where_it_starts(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    seen: dict[str, list[int]] = {"late": [], "early": []}
    enough = trio.Event()

    @broker.subscriber(Stream("numbers", group="late", start="end"))
    async def late(number: int) -> None:
        seen["late"].append(number)

    @broker.subscriber(Stream("numbers", group="early"))
    async def early(number: int) -> None:
        seen["early"].append(number)
        if len(seen["early"]) == 2:
            enough.set()

    with redis_process.client() as client:
        client.xadd("numbers", {"body": "1"})
    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        with trio.fail_after(5):
            await broker.publish(2, "numbers")
            await enough.wait()
    assert seen == {"late": [2], "early": [1, 2]}
