"""The test kit: what a test of a handler costs, beside FastStream's test broker; and an outage of a day.

    pip install 'trio-runtime[redis]' 'faststream[redis]'
    python benchmarks/test_kit.py [--rounds 5] [--times 1000]

The README beside this file says what is compared with what.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

import trio
from trio.testing import MockClock

from adapters.redis import RedisBroker
from runtime import Runtime
from runtime.testing import open_test

DAY: Final = 24 * 60 * 60.0
WARM_UP: Final = 100
PARTICIPANTS: Final = {"ours": "this runtime", "faststream": "FastStream"}
CASES: Final = ("round_trip", "inside")

Results = dict[str, list[list[float]]]  # case → for each participant → for each round: µs a time, the median
Outage = tuple[float, float]  # seconds on the wall, seconds of CPU


@dataclass(frozen=True)
class Event:
    id: int
    note: str


EVENT: Final = Event(id=1, note="x" * 200)


class Stopwatch:
    """Times each turn of its block, but for those that warm up."""

    def __init__(self) -> None:
        self._laps: list[float] = []

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._laps.append(time.perf_counter() - self._began)

    @property
    def median(self) -> float:
        return statistics.median(self._laps[WARM_UP:]) * 1e6


def our_application() -> tuple[Runtime, RedisBroker, list[int]]:
    broker = RedisBroker("redis://localhost:6379")
    handled: list[int] = []

    @broker.subscriber("events")
    async def handle(event: Event) -> None:
        handled.append(event.id)

    return Runtime(broker), broker, handled


async def ours_round_trip(times: int) -> float:
    app, _, handled = our_application()
    watch = Stopwatch()
    for _ in range(times):
        with watch:
            async with open_test(app) as world:
                await world.publish(EVENT, to="events")
                await world.settled()
    assert len(handled) == times
    return watch.median


async def ours_inside(times: int) -> float:
    app, _, handled = our_application()
    watch = Stopwatch()
    async with open_test(app) as world:
        for _ in range(times):
            with watch:
                await world.publish(EVENT, to="events")
                await world.settled()
    assert len(handled) == times
    return watch.median


async def ours_outage() -> Outage:
    """A day without the broker, the back-off never longer than three seconds: 38,000 attempts to connect."""
    app, broker, handled = our_application()
    wall, cpu = time.perf_counter(), time.process_time()
    async with open_test(app) as world:
        world.broker(broker).disconnect(for_=DAY)
        await world.publish(EVENT, to="events")
        await world.settled()
        assert trio.current_time() >= DAY
    assert handled == [EVENT.id]
    return time.perf_counter() - wall, time.process_time() - cpu


def faststream_application() -> tuple[Any, Any, list[int]]:
    from faststream.redis import RedisBroker, TestRedisBroker

    broker = RedisBroker("redis://localhost:6379", logger=None)
    handled: list[int] = []

    @broker.subscriber(stream="events")
    async def handle(event: Event) -> None:
        handled.append(event.id)

    return broker, TestRedisBroker, handled


async def faststream_round_trip(times: int) -> float:
    broker, test_broker, handled = faststream_application()
    watch = Stopwatch()
    for _ in range(times):
        with watch:
            async with test_broker(broker, connect_only=False) as tested:
                await tested.publish(EVENT, stream="events")
    assert len(handled) == times
    return watch.median


async def faststream_inside(times: int) -> float:
    broker, test_broker, handled = faststream_application()
    watch = Stopwatch()
    async with test_broker(broker, connect_only=False) as tested:
        for _ in range(times):
            with watch:
                await tested.publish(EVENT, stream="events")
    assert len(handled) == times
    return watch.median


def measure(participant: str, case: str, times: int) -> Any:
    """In the child, on the participant's own event loop."""
    logging.disable()
    if case == "outage":
        return trio.run(ours_outage, clock=MockClock(autojump_threshold=0))
    function = partial(globals()[f"{participant}_{case}"], times + WARM_UP)
    return asyncio.run(function()) if participant == "faststream" else trio.run(function)


def measure_in_child(participant: str, case: str, times: int) -> Any:
    task = json.dumps([participant, case, times])
    child = subprocess.run([sys.executable, __file__, "--child", task], stdout=subprocess.PIPE, check=True)
    return json.loads(child.stdout)


def report(results: Results, outages: list[Outage]) -> Iterator[str]:
    """Medians, and the medians of the rounds' ratios to ours."""
    yield ", ".join(f"{name} {version(name)}" for name in ("trio-runtime", "trio", "faststream"))
    yield " " * 40 + "".join(f"{title:>22}" for title in PARTICIPANTS.values())
    titles = {"round_trip": "enter, publish, settled, leave", "inside": "publish, settled, inside one world"}
    for case, values in results.items():
        ratios = [statistics.median(i / o for i, o in zip(its, values[0], strict=True)) for its in values]
        cells = [f"{statistics.median(v):>11,.0f} µs {r:>6.2f}×" for v, r in zip(values, ratios, strict=True)]
        yield f"{titles[case]:<40}{''.join(cells)}"
    wall, cpu = (statistics.median(values) for values in zip(*outages, strict=True))
    yield f"{'an outage of a day, with back-off':<40}{wall:>11.2f} s, {cpu:.2f} s of CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a test of a handler costs, here and with FastStream.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(*options.child)))
        return
    if not (find_spec("faststream") and find_spec("redis")):
        raise SystemExit("There is no FastStream to compare with: pip install 'faststream[redis]'")
    results: Results = {case: [[] for _ in PARTICIPANTS] for case in CASES}
    outages = []
    for _ in range(options.rounds):
        for case, samples in results.items():
            for participant, taken in zip(PARTICIPANTS, samples, strict=True):
                taken.append(measure_in_child(participant, case, options.times))
        outages.append(measure_in_child("ours", "outage", 1))
    sys.stdout.writelines(f"{line}\n" for line in report(results, outages))


if __name__ == "__main__":
    main()
