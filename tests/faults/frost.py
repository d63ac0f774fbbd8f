"""A server that is stopped with SIGSTOP: its sockets stay open and nothing answers, which no error betrays.

Told once for all brokers, like `stories`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from runtime import Backoff, BrokerUnavailable, LinkState, OutcomeUnknown, Runtime

from ..bench.table import Row
from ..bench.waiting import told, until
from ..bench.worker import worker
from .place import Place, record_handled
from .processes import AddNumbers

#: Handles on cue, so that acks and publishes are outstanding when the server is frozen.
HANDLERS = """
import pathlib, trio
from runtime import Runtime
from {module} import {name}

broker = {name}({arguments})
app = Runtime(broker, grace=1)

@broker.subscriber("orders", concurrency=20)
async def handle(number: int) -> None:
    print("handling", number, flush=True)
    while not pathlib.Path("frozen").exists():
        await trio.sleep(0.01)
    if number % 2:
        print("publishing", number, flush=True)
        await broker.publish(number, "done")
    print("handled", number, flush=True)
"""


async def sigterm_with_acks_and_publishes_outstanding(place: Place, folder: Path, add_numbers: AddNumbers) -> Row:
    with place.recorder(32, "SIGTERM on a frozen broker") as recorder:
        async with worker(folder, place.module(HANDLERS)) as running:
            await running.says("connected")
            await told(add_numbers("orders", 10))
            await running.says("handling", times=10)
            place.server.freeze()
            (folder / "frozen").touch()
            await running.says("handled", times=5)  # their acks are outstanding
            await running.says("publishing", times=5)  # and these publishes
            recorder.mark_fault(unsettled=0)
            running.signal()
            status, seconds = await running.ends(within=10)
            recorder.mark_recovered()
            assert (status, seconds < 1 + 2) == (3, True), running.output
            recorder.fault("publishes had no answer", proof="cancelling handlers.handle" in running.output)
        place.server.thaw()
        return recorder.check(recovery_within=1 + 2)


async def cancel_around_a_frozen_broker(place: Place) -> None:
    broker = place.broker()
    started = trio.Event()

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        started.set()
        await trio.sleep_forever()

    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(1, "orders")
        await started.wait()
        place.server.freeze()
        nursery.start_soon(broker.publish, 2, "orders")
        await trio.sleep(0.1)
        assert app.status().brokers[0].publishing == 1
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    place.server.thaw()
    await place.at_rest()


async def publish_into_the_frost(place: Place) -> None:
    """What was sent is on the server once, although its outcome is unknown: 0, 1 and 2 are in `orders` now."""
    broker = place.broker(publish_limit=1, probe_interval=60)
    async with Runtime(broker).open():
        await broker.publish(0, "orders")
        place.server.freeze()
        with pytest.raises(OutcomeUnknown):
            await broker.publish(1, "orders")
        place.server.thaw()
        await broker.publish(2, "orders")


async def publish_while_disconnected(place: Place) -> None:
    """Waits, can be cancelled, and is bounded: 0 and 3 are in `orders` now."""
    async with place.open_proxy() as proxy:
        broker = place.broker(proxy.port, publish_limit=1, backoff=Backoff(cap=0.2))
        app = Runtime(broker)
        async with app.open():
            await broker.publish(0, "orders")
            proxy.refuse()
            proxy.reset()
            await until(lambda: app.status().brokers[0].state is not LinkState.CONNECTED)
            began = trio.current_time()
            with trio.move_on_after(0.2):
                await broker.publish(1, "orders")
            assert trio.current_time() - began < 0.4
            with pytest.raises(BrokerUnavailable, match="refused"):
                await broker.publish(2, "orders")
            assert 1 <= trio.current_time() - began - 0.2 < 1.5
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.publish, 3, "orders")
                await trio.testing.wait_all_tasks_blocked()
                proxy.forward()


async def degraded_then_lost_and_found_again(place: Place) -> None:
    broker = place.broker(probe_interval=0.5)
    handled = record_handled(broker)
    app = Runtime(broker)
    async with app.open():
        await broker.publish(0, "orders")
        await until(lambda: handled == [0])
        place.server.freeze()
        await until(lambda: app.status().brokers[0].state is LinkState.DEGRADED, within=1.5)
        down = (LinkState.DOWN, LinkState.CONNECTING)
        await until(lambda: app.status().brokers[0].state in down, within=1.5)
        place.server.thaw()
        await broker.publish(1, "orders")
        await until(lambda: handled == [0, 1])
