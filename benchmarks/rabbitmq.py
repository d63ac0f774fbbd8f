"""RabbitMQ: this runtime beside bare aio-pika on asyncio, in one run, on a server that is running already.

    pip install 'trio-runtime[rabbitmq,rabbitmq-aio]'
    python benchmarks/rabbitmq.py amqp://guest:guest@localhost/ [--rounds 5] [--messages 10000]

Persistent messages of 256 bytes in a durable classic queue of its own, each confirmed; what is consumed is acked one by
one. Both decode and encode with msgspec, and each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aio_pika
import msgspec
import trio

from adapters.rabbitmq import RabbitBroker
from runtime import Runtime

QUEUE: Final = "runtime-benchmark"
IN_FLIGHT: Final = 200
PARTICIPANTS: Final = {"ours": "this runtime", "aio_pika": "bare aio-pika"}
CASES: Final = (("publish", 1), ("publish", IN_FLIGHT), ("consume", 1), ("consume", 10), ("consume", 100))

Sample = tuple[float, float]  # seconds on the wall, seconds of CPU


@dataclass(frozen=True)
class Event:
    id: int
    count: int
    note: str


EVENT: Final = Event(id=1_000_000, count=1, note="x" * 222)  # 256 bytes as JSON


class Clock:
    """Runs from when it is made to the last message. What every handler calls, so that each uses the decoded body."""

    def __init__(self, messages: int, done: Callable[[], object] = bool) -> None:
        self._left, self._done = messages, done
        self._start = time.perf_counter(), time.process_time()
        self.sample: Sample = (0.0, 0.0)

    def handle(self, event: Event) -> None:
        self._left -= event.count
        if not self._left:
            self.sample = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
            self._done()


async def worker(publish: Callable[[], Awaitable[object]], clock: Clock, turns: range) -> None:
    for _ in turns:
        await publish()
        clock.handle(EVENT)


async def ours_publish(url: str, messages: int, in_flight: int) -> Sample:
    async with Runtime(broker := RabbitBroker(url)).open():
        publish = partial(broker.publish, EVENT, QUEUE)
        await publish()  # connect
        clock = Clock(messages)
        async with trio.open_nursery() as nursery:
            for i in range(in_flight):
                nursery.start_soon(worker, publish, clock, range(i, messages, in_flight))
        return clock.sample


async def ours_consume(url: str, messages: int, concurrency: int) -> Sample:
    await ours_publish(url, messages - 1, IN_FLIGHT)  # and one to connect
    broker = RabbitBroker(url)

    @broker.subscriber(QUEUE, concurrency=concurrency)
    async def handle(event: Event) -> None:
        clock.handle(event)

    done = trio.Event()
    clock = Clock(messages, done.set)
    async with Runtime(broker).open():
        await done.wait()
    return clock.sample


async def aio_pika_publish(url: str, messages: int, in_flight: int) -> Sample:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True)

        async def publish() -> None:
            message = aio_pika.Message(msgspec.json.encode(EVENT), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, QUEUE)

        await publish()
        clock = Clock(messages)
        await asyncio.gather(*(worker(publish, clock, range(i, messages, in_flight)) for i in range(in_flight)))
        return clock.sample


async def aio_pika_consume(url: str, messages: int, concurrency: int) -> Sample:
    await aio_pika_publish(url, messages - 1, IN_FLIGHT)
    decode = msgspec.json.Decoder(Event).decode
    done = asyncio.Event()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        # Taken and not acked: this runtime's default bound.
        await channel.set_qos(prefetch_count=concurrency + max(8, concurrency // 4))
        queue = await channel.declare_queue(QUEUE, durable=True)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            clock.handle(decode(message.body))
            await message.ack()

        clock = Clock(messages, done.set)
        await queue.consume(handle)
        await done.wait()
    return clock.sample


async def purge(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        await (await connection.channel()).queue_delete(QUEUE)


def measure(participant: str, job: str, number: int, url: str, messages: int) -> Any:
    """In the child, on the participant's own event loop."""
    function = partial(globals()[f"{participant}_{job}"], url, messages, number)
    return trio.run(function) if participant == "ours" else asyncio.run(function())


def measure_in_child(*task: str | int) -> Sample:
    command = [sys.executable, __file__, "--child", json.dumps(task), ""]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    wall, cpu = json.loads(child.stdout)
    return wall, cpu


def report(results: dict[tuple[str, int], list[list[Sample]]], messages: int) -> Iterator[str]:
    """Medians, and the medians of the rounds' ratios to ours."""
    yield " " * 24 + "".join(f"{title:>23}" for title in PARTICIPANTS.values())
    for (job, number), samples in results.items():
        yield row(f"{job}, {number} at a time", "/s", [[messages / wall for wall, _ in taken] for taken in samples])
        yield row("  CPU a message", "µs", [[cpu / messages * 1e6 for _, cpu in taken] for taken in samples])


def row(title: str, unit: str, values: list[list[float]]) -> str:
    ratios = [statistics.median(its / ours for its, ours in zip(v, values[0], strict=True)) for v in values]
    cells = [f"{statistics.median(v):>12,.0f} {unit} {r:>6.2f}×" for v, r in zip(values, ratios, strict=True)]
    return f"{title:<24}{''.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="This runtime and bare aio-pika on RabbitMQ.")
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(*options.child)))
        return
    results: dict[tuple[str, int], list[list[Sample]]] = {case: [[] for _ in PARTICIPANTS] for case in CASES}
    for case, samples in list(results.items()) * options.rounds:
        for participant, taken in zip(PARTICIPANTS, samples, strict=True):
            asyncio.run(purge(options.url))
            taken.append(measure_in_child(participant, *case, options.url, options.messages))
    sys.stdout.writelines(f"{line}\n" for line in report(results, options.messages))


if __name__ == "__main__":
    main()
