"""Cancels at random moments under load: nobody ever reads another's reply, and nothing confirmed is missing."""

from __future__ import annotations

import random

import pytest
import trio

from adapters.redis import RedisBroker
from adapters.redis.connection import Address, open_connection
from runtime import Runtime, SessionLost
from runtime.dial import Dialer

from ..bench.servers import RedisServer

pytestmark = pytest.mark.broker


@pytest.mark.promise("P5")
async def test_after_1000_cancels_at_random_moments_no_caller_has_read_anothers_reply(
    redis_process: RedisServer,
) -> None:
    address = Address("127.0.0.1", redis_process.port, None, 0, None, None, None)
    dice = random.Random(7)
    cancelled = answered = 0

    async def ask(number: int) -> None:
        nonlocal cancelled, answered
        # The longer ones do not fit into the socket's buffer, so that some are cut off in the middle of their write.
        text = f"{number}:".encode() + b"x" * dice.choice([10, 10, 10, 1_000_000])
        with trio.move_on_after(dice.uniform(0, 0.02)) as scope:
            try:
                reply = await connection.ask("ECHO", text)
            except SessionLost:
                return  # its connection was given up, by another's cut
            assert reply == text
            answered += 1
        cancelled += scope.cancelled_caught

    number = 0
    with trio.fail_after(50):
        while cancelled < 1000:
            try:
                async with open_connection(address, Dialer(), 5, "cancel") as connection:
                    for _ in range(5):
                        async with trio.open_nursery() as nursery:
                            for _ in range(40):
                                number += 1
                                nursery.start_soon(ask, number)
                        await trio.sleep(dice.uniform(0, 0.01))
            except* SessionLost:
                pass
    assert answered > 100


@pytest.mark.promise("P5")
async def test_publishes_cancelled_at_random_moments_lose_nothing_that_was_confirmed(
    redis_process: RedisServer,
) -> None:
    broker = RedisBroker(redis_process.url)
    app = Runtime(broker)
    dice = random.Random(11)
    confirmed: set[str] = set()
    cancelled = 0

    async def publisher() -> None:
        nonlocal cancelled
        while cancelled < 1000:
            with trio.move_on_after(dice.uniform(0, 0.03)) as scope:
                confirmed.add(await broker.publish(b"x" * 5000, "orders"))
            cancelled += scope.cancelled_caught

    async with app.open():
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(publisher)
        assert app.status().broker("redis").sessions == 1, "a caller's cancel does not touch the connection"
        assert app.status().broker("redis").publishing == 0
    with redis_process.client() as client:
        stored = [fields[b"_id"].decode() for _, fields in client.xrange("orders")]
    assert len(stored) == len(set(stored)), "none was sent twice"
    assert confirmed <= set(stored)
    assert len(confirmed) > 100
