"""Redis Streams: this runtime beside FastStream and beside the bare client, in one run.

    pip install 'trio-runtime[redis]' 'faststream[redis]'
    python benchmarks/redis_streams.py [--rounds 5] [--messages 10000]

The README beside this file says what is compared with what.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Final

import hiredis
import msgspec
import trio

from adapters.redis import RedisBroker
from runtime import Runtime

STREAM: Final = "events"
GROUP: Final = "benchmark"
IN_FLIGHT: Final = 200
PARTICIPANTS: Final = {"ours": "this runtime", "faststream": "FastStream", "raw": "bare client"}
CASES: Final = (("publish", 1), ("publish", IN_FLIGHT), ("consume", 1), ("consume", 10), ("consume", 100))

Sample = tuple[float, float]  # seconds on the wall, seconds of CPU
Results = dict[tuple[str, int], list[list[Sample]]]  # case → for each participant → for each round


@dataclass(frozen=True)
class Event:
    id: int
    count: int
    note: str


EVENT: Final = Event(id=1_000_000, count=1, note="x" * 222)  # 256 bytes as JSON; a dataclass, because all take one


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


async def ours_publish(port: int, messages: int, in_flight: int) -> Sample:
    async with Runtime(broker := RedisBroker(f"redis://127.0.0.1:{port}")).open():
        publish = partial(broker.publish, EVENT, STREAM)
        await publish()  # connect
        clock = Clock(messages)
        async with trio.open_nursery() as nursery:
            for i in range(in_flight):
                nursery.start_soon(worker, publish, clock, range(i, messages, in_flight))
        return clock.sample


async def ours_consume(port: int, messages: int, concurrency: int) -> Sample:
    await ours_publish(port, messages - 1, 1)  # and one to connect
    broker = RedisBroker(f"redis://127.0.0.1:{port}", group=GROUP)

    @broker.subscriber(STREAM, concurrency=concurrency)
    async def handle(event: Event) -> None:
        clock.handle(event)

    done = trio.Event()
    clock = Clock(messages, done.set)
    async with Runtime(broker).open():
        await done.wait()
    return clock.sample


def faststream_broker(port: int) -> Any:
    from faststream.redis import RedisBroker

    # Unless told otherwise it logs two lines a message, and its pool, a connection per call, refuses the 101st.
    return RedisBroker(f"redis://127.0.0.1:{port}", logger=None, max_connections=2 * IN_FLIGHT)


async def faststream_publish(port: int, messages: int, in_flight: int) -> Sample:
    async with faststream_broker(port) as broker:
        publish = partial(broker.publish, EVENT, stream=STREAM)
        await asyncio.gather(*(publish() for _ in range(in_flight)))  # connect, once for each in flight
        clock = Clock(messages)
        await asyncio.gather(*(worker(publish, clock, range(i, messages, in_flight)) for i in range(in_flight)))
        return clock.sample


async def faststream_consume(port: int, messages: int, concurrency: int) -> Sample:
    await faststream_publish(port, messages - 1, 1)
    async with faststream_broker(port) as broker:
        from faststream.redis import StreamSub

        source = StreamSub(STREAM, group=GROUP, consumer="faststream", last_id="0")

        # None is its plain subscriber, one message after another; a number makes it the concurrent one.
        @broker.subscriber(stream=source, max_workers=concurrency if concurrency > 1 else None)
        async def handle(event: Event) -> None:
            clock.handle(event)

        done = asyncio.Event()
        clock = Clock(messages, done.set)
        await broker.start()
        await done.wait()
    return clock.sample


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[Callable[..., Awaitable[list[Any]]]]:
    """hiredis over a Trio stream: one write for some commands, and then their replies."""
    reader = hiredis.Reader()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:

        async def ask(*commands: tuple[Any, ...]) -> list[Any]:
            await stream.send_all(b"".join(map(hiredis.pack_command, commands)))
            replies: list[Any] = []
            while len(replies) < len(commands):
                while (reply := reader.gets()) is False:  # incomplete
                    reader.feed(bytes(await stream.receive_some(262_144)))
                replies.append(reply)
            return replies

        yield ask


async def raw_publish(port: int, messages: int, in_flight: int) -> Sample:
    async with raw_client(port) as ask:
        await ask(("XADD", STREAM, "*", "body", msgspec.json.encode(EVENT)))
        clock = Clock(messages)
        for first in range(0, messages, in_flight):
            events = [EVENT] * min(in_flight, messages - first)
            for _ in await ask(*[("XADD", STREAM, "*", "body", msgspec.json.encode(event)) for event in events]):
                clock.handle(EVENT)
        return clock.sample


async def raw_consume(port: int, messages: int, concurrency: int) -> Sample:
    await raw_publish(port, messages - 1, 1)
    decode = msgspec.json.Decoder(Event).decode
    most = concurrency + max(8, concurrency // 4)  # taken and not acked: this runtime's default bound
    read = ("XREADGROUP", "GROUP", GROUP, "raw", "COUNT", most, "STREAMS", STREAM, ">")
    clock = Clock(messages)
    async with raw_client(port) as ask:
        replies = await ask(("XGROUP", "CREATE", STREAM, GROUP, "0"), read)
        while replies[-1]:
            ((_, entries),) = replies[-1]
            for _, (_, body) in entries:
                clock.handle(decode(body))
            replies = await ask(("XACK", STREAM, GROUP, *(entry_id for entry_id, _ in entries)), read)
    return clock.sample


def measure(participant: str, job: str, number: int, port: int, messages: int) -> Any:
    """In the child, on the participant's own event loop."""
    function = partial(globals()[f"{participant}_{job}"], port, messages, number)
    return asyncio.run(function()) if participant == "faststream" else trio.run(function)


async def measure_in_child(participant: str, job: str, number: int, port: int, messages: int) -> Sample:
    task = json.dumps([participant, job, number, port, messages])
    async with raw_client(port) as ask:
        await ask(("FLUSHALL",))
        child = await trio.run_process([sys.executable, __file__, "--child", task], capture_stdout=True)
        if job == "consume" and (await ask(("XPENDING", STREAM, GROUP)))[0][0] > 0:
            raise SystemExit(f"{participant} has not acked everything, so its time means nothing")
    return tuple(json.loads(child.stdout))


@contextmanager
def redis_server() -> Iterator[int]:
    """A server of our own, which keeps nothing; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory() as folder:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
            try:
                assert any("Ready to accept" in line for line in server.stdout or ()), "redis-server did not start"
                yield port
            finally:
                server.terminate()


def report(results: Results, messages: int) -> Iterator[str]:
    """Medians, and the medians of the rounds' ratios to ours."""
    yield ", ".join(f"{name} {version(name)}" for name in ("trio-runtime", "trio", "hiredis", "faststream", "redis"))
    yield " " * 24 + "".join(f"{title:>23}" for title in PARTICIPANTS.values())
    for (job, number), samples in results.items():
        yield row(f"{job}, {number} at a time", "/s", [[messages / wall for wall, _ in taken] for taken in samples])
        if job == "consume":
            yield row("  CPU a message", "µs", [[cpu / messages * 1e6 for _, cpu in taken] for taken in samples])


def row(title: str, unit: str, values: list[list[float]]) -> str:
    ratios = [statistics.median(its / ours for its, ours in zip(v, values[0], strict=True)) for v in values]
    cells = [f"{statistics.median(v):>12,.0f} {unit} {r:>6.2f}×" for v, r in zip(values, ratios, strict=True)]
    return f"{title:<24}{''.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="This runtime, FastStream and the bare client on Redis Streams.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(measure(*options.child)))
        return
    if not (find_spec("faststream") and find_spec("redis")):
        raise SystemExit("There is no FastStream to compare with: pip install 'faststream[redis]'")
    results: Results = {case: [[] for _ in PARTICIPANTS] for case in CASES}
    with redis_server() as port:
        for case, samples in list(results.items()) * options.rounds:
            for participant, taken in zip(PARTICIPANTS, samples, strict=True):
                taken.append(trio.run(partial(measure_in_child, participant, *case, port, options.messages)))
    sys.stdout.writelines(f"{line}\n" for line in report(results, options.messages))


if __name__ == "__main__":
    main()
