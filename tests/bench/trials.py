"""Faults that are the same on every broker. A test of an adapter brings its broker, its source and its server.

Each takes a recorder that is open, does its fault to a load of messages, proves it, and leaves the bounds to `check`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import pytest
import trio

from runtime import Broker, LinkState, OutcomeUnknown, Runtime

from .command import Worker
from .process import ServerProcess
from .proxy import Proxy
from .recorder import Recorder
from .traffic import Traffic, traffic
from .waiting import until


def _of(load: Traffic) -> Any:
    """The status of the one broker under load."""
    (status,) = load.app.status().brokers
    return status


async def restarted_twice(broker: Broker[Any], source: Any, server: ServerProcess, recorder: Recorder) -> None:
    """1: killed and started again at ⅓ and ½ of 10,000 messages."""
    async with traffic(broker, source, recorder, total=10_000, publishers=100) as load:
        for share in (1 / 3, 1 / 2):
            await load.reaches(share)
            unsettled = load.unsettled
            server.kill()
            await until(lambda: not _of(load).ready)
            recorder.fault("it is gone", proof=not server.is_running())
            await server.start()
            recorder.mark_fault(unsettled=unsettled)
        await load.ends()


async def down_for_a_minute(broker: Broker[Any], source: Any, server: ServerProcess, recorder: Recorder) -> None:
    """2: killed, and started again a minute later. Not ready within 5 s."""
    async with traffic(broker, source, recorder, total=2_000) as load:
        await load.reaches(1 / 2)
        unsettled = load.unsettled
        server.kill()
        await until(lambda: not load.app.status().ready, within=5)
        recorder.fault("the server is gone", proof=not server.is_running())
        await trio.sleep(60)
        await server.start()
        recorder.mark_fault(unsettled=unsettled)
        await load.ends()


async def absent_at_start(broker: Broker[Any], source: Any, server: ServerProcess, recorder: Recorder) -> None:
    """3: started when there have been attempts to connect to it."""
    async with traffic(broker, source, recorder, total=100, publishers=10) as load:
        await until(lambda: _of(load).attempts >= 3)
        recorder.fault("attempts before it came", proof=_of(load).attempts)
        await server.start()
        recorder.mark_fault()
        await load.ends()


async def reset_in_mid_frame(broker: Broker[Any], source: Any, proxy: Proxy, recorder: Recorder) -> None:
    """4: three connections, each after 37 bytes of an answer."""
    async with traffic(broker, source, recorder, total=3_000) as load:
        unsettled = 0
        for share in (0.2, 0.4, 0.6):
            await load.reaches(share)
            resets = proxy.resets
            proxy.cut_after(37, "down")
            await until(lambda: proxy.resets > resets)  # noqa: B023
            unsettled += load.unsettled
            recorder.mark_fault(unsettled=unsettled)
        await load.ends()
        recorder.fault("connections reset", proof=proxy.resets >= 3)


async def black_hole(
    broker: Broker[Any],
    source: Any,
    proxy: Proxy,
    recorder: Recorder,
    direction: Literal["upstream", "downstream"],
    *,
    found: Collection[LinkState] = (LinkState.DOWN, LinkState.CONNECTING),
) -> None:
    """5, 6: not ready within two of its probes, `found` in two more, and well again when the hole is closed."""
    async with traffic(broker, source, recorder, total=3_000) as load:
        await load.reaches(1 / 3)
        unsettled = load.unsettled
        proxy.swallow(up=direction == "upstream", down=direction == "downstream")
        await until(lambda: not _of(load).ready, within=2 * broker.probe_interval)
        await until(lambda: _of(load).state in found, within=2 * broker.probe_interval)
        recorder.fault("bytes swallowed", proof=proxy.swallowed)
        proxy.forward()
        recorder.mark_fault(unsettled=unsettled)
        await load.ends()


async def latency(broker: Broker[Any], source: Any, proxy: Proxy, recorder: Recorder) -> None:
    """7: a quarter of a second each way, with jitter, is no reason to hang up."""
    async with traffic(broker, source, recorder, total=300, publishers=50) as load:
        await load.reaches(0.1)
        recorder.mark_fault()
        proxy.delay(0.25, jitter=0.1)
        await load.ends()
        recorder.fault("one session all the time", proof=_of(load).sessions == 1)
        began = trio.current_time()
        await broker.publish(0, "other")
        recorder.fault("a round trip is slow", proof=trio.current_time() - began > 0.3)


async def flaps(broker: Broker[Any], source: Any, proxy: Proxy, recorder: Recorder, count: int) -> None:
    """8: every connection is reset, `count` times, each time as soon as there is a new one."""
    async with traffic(broker, source, recorder, total=2_000, publishers=10) as load:
        seen = 0
        for _ in range(count):
            await until(lambda: proxy.connections > seen)  # noqa: B023
            seen = proxy.connections
            proxy.reset()
        recorder.mark_fault()
        await load.ends()
        recorder.fault("connections reset", proof=proxy.resets >= count)


async def sigterm_in_flight(running: Worker, recorder: Recorder, count: int) -> None:
    """22: a worker made by `printing` that is told to stop with `count` messages in its handlers."""
    for number in range(count):
        recorder.confirmed(number)
    await running.says("handling", times=count)
    recorder.fault("none is done yet", proof="handled" not in running.output)
    recorder.mark_fault(unsettled=count)
    running.signal()
    status, _ = await running.ends(within=10)
    recorder.mark_recovered()
    assert status == 0, running.output
    for line in running.output.splitlines():
        if line.startswith("handled "):
            recorder.handled(int(line.removeprefix("handled ")))


async def beside_an_unreachable_broker(
    healthy: Broker[Any], victim: Broker[Any], source: Any, recorder: Recorder
) -> None:
    """33: `victim` cannot be reached; neither the start, nor what is published to `healthy`, nor the end waits for it."""
    handled: list[int] = []

    @victim.subscriber(source)
    async def never(number: int) -> None: ...

    @healthy.subscriber(source)
    async def handle(number: int) -> None:
        handled.append(number)
        recorder.handled(number)

    app = Runtime(victim, healthy)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(1):
            await nursery.start(app.serve)
        nursery.start_soon(victim.publish, 0, source)
        slowest = 0.0
        for number in range(300):
            began = trio.current_time()
            await healthy.publish(number, source)
            if number:  # the first waits for the connection
                slowest = max(slowest, trio.current_time() - began)
            recorder.confirmed(number)
        await until(lambda: sorted(handled) == list(range(300)))
        assert slowest < 0.5
        await until(lambda: app.status().broker(healthy.name).ready)
        recorder.fault("the other is not ready", proof=not app.status().broker(victim.name).ready)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1


async def beside_a_broker_that_ends(
    other: Broker[Any], victim: Broker[Any], source: Any, server: ServerProcess, fate: str
) -> None:
    """33: `victim` is closed, or its `server` killed or frozen, and `other` publishes and handles as before."""
    handled: list[int] = []

    @other.subscriber(source)
    async def handle(number: int) -> None:
        handled.append(number)

    @victim.subscriber(source)
    async def suffer(number: int) -> None: ...

    victims = Runtime(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(Runtime(other).serve)
        await nursery.start(victims.serve)
        await victim.publish(1, source)
        await other.publish(0, source)
        slowest = 0.0
        for number in range(1, 200):
            if number == 50:
                {"kill": server.kill, "freeze": server.freeze, "close": victims.stop}[fate]()
                if fate != "close":
                    nursery.start_soon(victim.publish, 2, source)
            began = trio.current_time()
            await other.publish(number, source)
            slowest = max(slowest, trio.current_time() - began)
        await until(lambda: sorted(handled) == list(range(200)), within=2)
        assert slowest < 0.5, "no publish of the other broker waited for the victim"
        nursery.cancel_scope.cancel()


async def cancelled_when_frozen(broker: Broker[Any], source: Any, server: ServerProcess) -> None:
    """The scope around a run whose server is frozen, with a handler and a publish under way, is left within a second."""
    started = trio.Event()

    @broker.subscriber(source)
    async def handle(number: int) -> None:
        started.set()
        await trio.sleep_forever()

    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(1, source)
        await started.wait()
        server.freeze()
        nursery.start_soon(broker.publish, 2, source)
        await trio.sleep(0.1)
        assert app.status().broker(broker.name).publishing == 1
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1


async def published_into_the_frost(broker: Broker[Any], source: Any, server: ServerProcess) -> None:
    """0, then 1 into the frost, whose outcome is unknown when its publish limit is over, then 2 after it."""
    async with Runtime(broker).open():
        await broker.publish(0, source)
        server.freeze()
        with pytest.raises(OutcomeUnknown):
            await broker.publish(1, source)
        server.thaw()
        await broker.publish(2, source)
