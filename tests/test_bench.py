"""The fault bench itself: faults happen when told to, are seen to have happened, and end with their block."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from .bench.dns import failing_dns, slow_dns
from .bench.proxy import Proxy, open_proxy
from .bench.recorder import Recorder
from .bench.table import FaultTable, Row, parse, render
from .bench.waiting import until
from .bench.worker import worker

ROW = Row(4, "TCP reset in mid-frame", "redis", 0, 3, 0, 0, 0.26)


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends back what it is sent."""

    async def answer(stream: trio.SocketStream) -> None:
        try:
            async for chunk in stream:
                await stream.send_all(chunk)
        except trio.BrokenResourceError:
            pass  # reset, which is what these tests are about

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[trio.SocketStream]:
    with trio.fail_after(10):
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as client:
            yield client


async def echoes(client: trio.SocketStream, text: bytes) -> bool:
    await client.send_all(text)
    answer = b""
    while len(answer) < len(text):
        answer += await client.receive_some()
    return answer == text


async def is_reset(client: trio.SocketStream) -> bool:
    """It ends with a RST, not with an orderly end."""
    try:
        return bool(await client.receive_some()) and await is_reset(client)
    except trio.BrokenResourceError as error:
        return isinstance(error.__cause__, ConnectionResetError)


# The proxy


async def test_a_proxy_forwards_every_byte_and_passes_the_end_on(echo: int) -> None:
    text = bytes(range(256)) * 4096
    async with open_proxy(echo) as proxy, connected(proxy) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, text)
        answer = b""
        while len(answer) < len(text):
            answer += await client.receive_some()
        assert answer == text
        await client.send_eof()
        assert await client.receive_some() == b""
        assert (proxy.connections, proxy.forwarded_up, proxy.forwarded_down) == (1, len(text), len(text))
        await until(lambda: proxy.open == 0)
        assert proxy.resets == 0


async def test_refusing_is_refused_keeps_open_connections_and_comes_back_on_the_same_port(echo: int) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as client:
        for _ in range(3):
            proxy.refuse()
            assert proxy.refuses()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", proxy.port)
            assert await echoes(client, b"still here")
            proxy.forward()
            async with connected(proxy) as another:
                assert await echoes(another, b"back")
        assert proxy.resets == 0


async def test_a_reset_reaches_every_open_connection_and_no_later_one(echo: int) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as one, connected(proxy) as two:
        assert await echoes(one, b"1")
        assert await echoes(two, b"2")
        proxy.reset()
        assert await is_reset(one)
        assert await is_reset(two)
        async with connected(proxy) as three:
            assert await echoes(three, b"3")
        assert (proxy.connections, proxy.resets) == (3, 2)


async def test_a_cut_delivers_that_many_bytes_and_then_a_reset_once(echo: int) -> None:
    async with open_proxy(echo) as proxy:
        async with connected(proxy) as client:
            assert await echoes(client, b"whole")
            proxy.cut_after(3)
            await client.send_all(b"partial")
            assert await client.receive_some() == b"par"
            assert await is_reset(client)
        async with connected(proxy) as client:
            assert await echoes(client, b"whole")
        assert (proxy.resets, proxy.forwarded_down) == (1, 5 + 3 + 5)


async def test_a_cut_upstream_keeps_the_rest_from_the_broker(echo: int) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as client:
        proxy.cut_after(2, "up")
        await client.send_all(b"partial")
        assert await is_reset(client)
        assert (proxy.resets, proxy.forwarded_up) == (1, 2)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_black_hole_swallows_one_direction_and_the_connection_is_reset_after_it(
    echo: int, direction: str
) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as client, connected(proxy) as idle:
        assert await echoes(client, b"before")
        assert await echoes(idle, b"before")
        proxy.swallow(up=direction == "up", down=direction == "down")
        await client.send_all(b"gone")
        await until(lambda: proxy.swallowed == 4)
        assert proxy.swallowed_up == (4 if direction == "up" else 0)
        assert proxy.forwarded_up == 12 + (0 if direction == "up" else 4)
        proxy.forward()
        assert await is_reset(client)
        assert await echoes(idle, b"nothing of it was lost")
        assert proxy.resets == 1


async def test_the_end_of_a_connection_is_swallowed_too(echo: int) -> None:
    async with open_proxy(echo) as proxy:
        async with connected(proxy) as client:
            assert await echoes(client, b"before")
            proxy.swallow()
            await client.send_all(b"gone")
        await until(lambda: proxy.swallowed == 4)
        assert proxy.open == 1
        proxy.forward()
        await until(lambda: proxy.open == 0)


async def test_a_connection_into_a_black_hole_is_accepted_and_never_answered(echo: int) -> None:
    async with open_proxy(echo) as proxy:
        proxy.swallow(up=False)
        async with connected(proxy) as client:
            await client.send_all(b"anybody?")
            await until(lambda: proxy.swallowed_up == 8)
            assert (proxy.connections, proxy.open, proxy.forwarded_up) == (1, 1, 0)
            proxy.forward()
            assert await is_reset(client)


async def test_ignored_attempts_to_connect_hang_and_succeed_later(echo: int) -> None:
    async with open_proxy(echo) as proxy, trio.open_nursery() as nursery:
        answered = trio.Event()

        async def connect() -> None:
            async with connected(proxy) as client:
                assert await echoes(client, b"at last")
                answered.set()

        proxy.ignore()
        nursery.start_soon(connect)
        await until(lambda: proxy.knocking == 1)
        assert proxy.connections == 0
        proxy.forward()
        with trio.fail_after(10):
            await answered.wait()
        assert proxy.knocking == 0


async def test_a_delay_keeps_the_order_and_what_it_holds_is_bounded(echo: int) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as client, trio.open_nursery() as nursery:
        proxy.delay(0.05, jitter=0.05)
        began = trio.current_time()
        for number in range(20):
            assert await echoes(client, b"%d" % number)
        assert trio.current_time() - began > 20 * 0.05  # there and back is twice 0.05 s on average
        proxy.delay(3600)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await client.send_all(bytes(64 * 1024))
                sent += 64 * 1024

        nursery.start_soon(flood)
        await until(lambda: sent > 0)
        before = -1
        while before < sent:
            before = sent
            await trio.sleep(0.3)
        assert sent < 32 * 1024 * 1024
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_delay_lets_go_of_what_was_held_back(echo: int) -> None:
    async with open_proxy(echo) as proxy, connected(proxy) as client:
        assert await echoes(client, b"before")
        proxy.delay(3600)
        await client.send_all(b"held")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert proxy.forwarded_up == 6
        proxy.forward()
        assert await client.receive_some() == b"held"


async def test_a_broker_that_is_gone_is_passed_on_and_is_no_fault_of_the_proxy(echo: int) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        async with open_proxy(unheard.getsockname()[1]) as proxy, connected(proxy) as client:
            assert await is_reset(client)
            assert (proxy.connections, proxy.resets) == (1, 0)


# Names


async def test_a_slow_name_takes_its_time_and_others_do_not() -> None:
    with slow_dns({"broker.test": 0.2}) as lookups:
        began = time.monotonic()
        assert socket.getaddrinfo("localhost", 80)
        assert time.monotonic() - began < 0.2
        [answer, *_] = await trio.to_thread.run_sync(socket.getaddrinfo, "broker.test", 80)
        assert answer[4] == ("127.0.0.1", 80)
        assert time.monotonic() - began >= 0.2
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("broker.test", 80, flags=socket.AI_NUMERICHOST)
        assert lookups.count == 1


async def test_the_end_of_the_block_ends_every_look_up() -> None:
    failures: list[OSError] = []

    def look_up() -> None:
        try:
            socket.getaddrinfo("broker.test", 80)
        except socket.gaierror as error:
            failures.append(error)

    threads = [threading.Thread(target=look_up) for _ in range(3)]
    with slow_dns({"broker.test": 3600}) as lookups:
        for thread in threads:
            thread.start()
        await until(lambda: lookups.outstanding == 3)
    for thread in threads:
        thread.join(5)
    assert [error.errno for error in failures] == [socket.EAI_AGAIN] * 3
    assert (lookups.count, lookups.most_outstanding, lookups.outstanding) == (3, 3, 0)


async def test_a_failing_name_is_unknown_within_the_block_only() -> None:
    real = socket.getaddrinfo
    with failing_dns("localhost") as lookups:
        with pytest.raises(socket.gaierror, match="not known"):
            socket.getaddrinfo("localhost", 80)
    assert lookups.count == 1
    assert socket.getaddrinfo is real


async def test_a_worker_installs_slow_names_and_tells_of_each_look_up(tmp_path: Path) -> None:
    module = """
from tests.bench.dns import install_slow

install_slow({"broker.test": 3600})

import socket

socket.getaddrinfo("broker.test", 80)
"""
    async with worker(tmp_path, module) as running:
        await running.says("looking up broker.test")
        assert running.process.poll() is None


# The record


def recorded(recorder: Recorder) -> Recorder:
    """One of everything: 1 lost, 2 duplicates, 1 out of order."""
    for message in (1, 2, 3, 4):
        recorder.confirmed(message)
    recorder.handled(1, key="a")
    recorder.handled(3, key="a")
    recorder.settled(1)
    recorder.mark_fault()
    recorder.handled(3, key="a")
    recorder.handled(1, key="a")
    recorder.handled(2, key="a")
    recorder.outcome_unknown(5)
    return recorder


def test_a_record_counts_and_passes_what_is_allowed() -> None:
    with Recorder(4, "TCP reset in mid-frame", broker="redis") as recorder:
        recorded(recorder).fault("resets", proof=1)
        assert (recorder.lost, recorder.duplicates, recorder.inversions, recorder.unknown) == ([4], 2, [2], [5])
        assert recorder.unsettled == 1
        row = recorder.check(lost=1, duplicates_at_most=2, inversions=1, recovery_within=5)
    assert row == Row(4, "TCP reset in mid-frame", "redis", 1, 2, 1, 0, recorder.recovery_seconds)
    assert 0 <= (row.recovery_seconds or 0) < 5


def test_a_check_that_fails_says_everything_that_is_wrong() -> None:
    resets = 0
    recorder = Recorder(4, "TCP reset in mid-frame", broker="redis")
    recorded(recorder).fault("resets", proof=lambda: resets > 0)
    with socket.socket(), pytest.raises(AssertionError) as caught:
        recorder.check(recovery_within=0)
    assert str(caught.value).splitlines()[:6] == [
        "fault 4 on redis, TCP reset in mid-frame:",
        "  no proof of it: resets",
        "  1 lost, 0 allowed: 4",
        "  2 duplicates, 0 allowed: 1, 3",
        "  1 out of order, 0 allowed: 2",
        "  left over, 0 allowed: {'sockets': 1}",
    ]
    assert "recovery took" in str(caught.value)


def test_a_fault_without_a_proof_or_without_a_check_fails() -> None:
    with (
        pytest.raises(AssertionError, match="nothing proves that it happened"),
        Recorder(4, "f", broker="b") as recorder,
    ):
        recorder.check()
    with pytest.raises(AssertionError, match="recorded and never checked"), Recorder(4, "f", broker="b") as recorder:
        recorder.fault("resets", proof=1)


def test_a_repetition_of_a_whole_key_is_no_inversion() -> None:
    recorder = Recorder(24, "worker killed", broker="kafka")
    for message in (1, 2, 3, 1, 2, 3):
        recorder.handled(message, key="a")
    assert recorder.inversions == []
    assert recorder.duplicates == 3


def test_the_recovery_ends_with_the_first_message_unless_marked() -> None:
    recorder = Recorder(4, "f", broker="b")
    recorder.mark_fault(unsettled=7)
    seconds = [recorder.recovery_seconds]
    recorder.confirmed(1)
    seconds.append(recorder.recovery_seconds)
    recorder.mark_recovered()
    seconds.append(recorder.recovery_seconds)
    assert recorder.unsettled == 7
    assert seconds[0] is None
    assert 0 < (seconds[1] or 0) < (seconds[2] or 0)


# The table


def test_the_table_is_sorted_by_fault_and_broker_and_reads_back() -> None:
    rows = [
        replace(ROW, fault_number=32, fault="SIGTERM in slow DNS", recovery_seconds=None),
        ROW,
        replace(ROW, broker="kafka"),
    ]
    text = render(rows)
    assert "./scripts/test --write-fault-table" in text
    assert text.splitlines()[-5:] == [
        "| fault | broker | lost | duplicates | inversions | leftovers | recovery |",
        "| --- | --- | --: | --: | --: | --: | --: |",
        "| 4. TCP reset in mid-frame | kafka | 0 | 3 | 0 | 0 | 0.3 |",
        "| 4. TCP reset in mid-frame | redis | 0 | 3 | 0 | 0 | 0.3 |",
        "| 32. SIGTERM in slow DNS | redis | 0 | 3 | 0 | 0 |  |",
    ]
    assert render(parse(text)) == text


def test_writing_replaces_the_rows_of_this_run_and_keeps_the_others(tmp_path: Path) -> None:
    file = tmp_path / "docs" / "faults.md"
    first = FaultTable()
    first.add(ROW)
    first.add(replace(ROW, broker="kafka"))
    first.write(file)
    second = FaultTable()
    second.add(replace(ROW, duplicates=1, recovery_seconds=2.0))
    second.add(replace(ROW, duplicates=2, recovery_seconds=1.0))  # tried twice: the worse counts
    second.write(file)
    kept, replaced = parse(file.read_text())
    assert kept == replace(ROW, broker="kafka", recovery_seconds=0.3)
    assert replaced == replace(ROW, duplicates=2, recovery_seconds=2.0)


@pytest.mark.parametrize("options", [(), ("--write-fault-table",)])
async def test_the_table_is_written_only_when_asked_for(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A pytest of its own, with a copy of the hooks' folder layout."""
    here = Path(__file__).parent
    (tmp_path / "tests").mkdir()
    bench = [file for file in (here / "bench").rglob("*") if file.suffix in (".py", ".xml")]
    for source in [here / "__init__.py", here / "conftest.py", *bench]:
        copy = tmp_path / source.relative_to(here.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    (tmp_path / "tests" / "test_one.py").write_text(
        "from .bench.table import Row\n\n\n"
        "def test_one(fault_table):\n    fault_table.add(Row(4, 'reset', 'redis', 0, 0, 0, 0, 1.0))\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests"]
    await trio.run_process(command, cwd=tmp_path, capture_stdout=True)
    assert (tmp_path / "docs" / "faults.md").exists() == bool(options)
