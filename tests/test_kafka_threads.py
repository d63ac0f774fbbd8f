"""A thread that drives a client: commands in, news out, and an end that is bounded whatever the client does."""

from __future__ import annotations

import threading
import time

import pytest
import trio
import trio.testing

from adapters.kafka.threads import MOST_LEFT_OVER, ClientThread, Leftovers
from runtime import SessionLost
from runtime.errors import Refused

from .bench.waiting import until


def _drive(thread: ClientThread) -> None:
    while not thread.stopping:
        thread.obey(0.01)


def _started(leftovers: Leftovers | None = None) -> ClientThread:
    thread = ClientThread("client", Leftovers() if leftovers is None else leftovers)
    thread.start(lambda: _drive(thread))
    return thread


async def test_commands_are_carried_out_in_order_in_the_thread_and_news_arrive_in_order_in_trio() -> None:
    thread, here = _started(), threading.get_ident()
    seen: list[tuple[int, bool]] = []

    def command(number: int) -> None:
        assert threading.get_ident() != here
        thread.report(lambda: seen.append((number, threading.get_ident() == here)))

    for number in range(100):
        thread.tell(lambda number=number: command(number))  # type: ignore[misc]
    await until(lambda: len(seen) == 100)
    assert seen == [(number, True) for number in range(100)]
    await thread.stop(1)


async def test_a_question_is_answered_with_a_result_an_error_or_the_threads_end() -> None:
    thread = _started()
    assert await thread.ask(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await thread.ask(lambda: 1 // 0)
    assert await thread.ask(threading.get_ident) != threading.get_ident()
    await thread.stop(1)
    with pytest.raises(SessionLost, match="client has ended") as loss:
        await thread.ask(bool)
    assert not loss.value.sent


async def test_what_is_asked_during_a_callback_is_answered_after_it_and_what_is_told_is_done_at_once() -> None:
    thread = ClientThread("client", Leftovers())
    happened: list[str] = []

    def drive() -> None:
        while "told" not in happened:
            thread.obey(0.01, in_callback=True)
        happened.append("the callback is over")
        _drive(thread)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.ask, lambda: happened.append("asked"))
        await trio.testing.wait_all_tasks_blocked()
        thread.tell(lambda: happened.append("told"))
        thread.start(drive)
    assert happened == ["told", "the callback is over", "asked"]
    await thread.stop(1)


async def test_what_kills_the_thread_reaches_whoever_waits_for_it() -> None:
    thread = ClientThread("client", Leftovers())
    may_fail = threading.Event()

    def drive() -> None:
        may_fail.wait(5)
        raise SessionLost("the client broke")

    thread.start(drive)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(SessionLost, match="the client broke"):
                await thread.ask(bool)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        may_fail.set()
        with pytest.raises(SessionLost, match="the client broke"):
            await thread.run()
    await thread.stop(1)


@pytest.mark.promise("P2")
async def test_a_thread_in_an_endless_call_is_left_in_time_counted_and_ends_by_itself() -> None:
    leftovers = Leftovers()
    thread = _started(leftovers)
    released = threading.Event()
    thread.tell(lambda: released.wait(30))
    with trio.CancelScope() as scope:
        scope.cancel()
        began = time.monotonic()
        await thread.stop(0.2)
    assert 0.1 < time.monotonic() - began < 5
    assert len(leftovers) == 1
    released.set()
    await until(lambda: len(leftovers) == 0)


async def test_clients_are_refused_while_too_many_threads_are_left_over() -> None:
    leftovers = Leftovers()
    released = threading.Event()
    stuck = [threading.Thread(target=released.wait, args=(30,), daemon=True) for _ in range(MOST_LEFT_OVER)]
    for one in stuck:
        one.start()
        leftovers.add(one)
    with pytest.raises(Refused, match=f"{MOST_LEFT_OVER} threads of earlier Kafka clients have not ended yet"):
        _started(leftovers)
    released.set()
    for one in stuck:
        one.join(5)
    await _started(leftovers).stop(1)


def test_news_for_a_run_that_is_over_are_dropped() -> None:
    async def main() -> ClientThread:
        return ClientThread("client", Leftovers())

    trio.run(main).report(lambda: pytest.fail("nobody is there to hear it"))
