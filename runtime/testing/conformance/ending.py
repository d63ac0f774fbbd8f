"""Every way out is bounded, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ...adapter import Settlement
from ...delivery import ACK
from .client import Client, Reader, consume_all, fresh
from .leftovers import nothing_left
from .publishing import MOMENTS
from .rig import Rig, needs
from .waiting import CLOSE_LIMIT

Call = Callable[[Reader], Awaitable[object]]


async def _receive(reader: Reader) -> None:
    await reader.take(100)


async def _publish(reader: Reader) -> None:
    while True:
        await reader.publish(*[b"x" * 1000] * 50)


async def _settle(reader: Reader) -> None:
    deliveries = list(reader.client.held[reader.source].values())
    await reader.session.settle([Settlement(delivery, ACK) for delivery in deliveries])
    await trio.sleep_forever()


async def _probe(reader: Reader) -> None:
    while True:
        await reader.session.probe()
        await trio.lowlevel.checkpoint()  # an embedded broker may answer at once


#: What a cancel may come in the middle of.
CALLS: dict[str, Call] = {"receive": _receive, "publish": _publish, "settle": _settle, "probe": _probe}


@pytest.mark.trio
class Ending:
    async def test_a_session_that_is_closed_leaves_nothing_behind(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with nothing_left(rig.patience):
            await consume_all(client, source)

    async def test_a_session_whose_block_raises_leaves_nothing_behind_and_raises_it(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with nothing_left(rig.patience):
            raised = False
            try:
                async with client.reading(source):
                    raise ZeroDivisionError
            except* ZeroDivisionError:
                raised = True
            assert raised

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_a_cancel_during_any_call_ends_it_in_time_and_leaves_nothing_behind(
        self, rig: Rig, call: Call
    ) -> None:
        await self._cancel_during(rig, call)

    @needs(Rig.frozen)
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_a_cancel_ends_in_time_although_the_broker_is_frozen(self, rig: Rig, call: Call) -> None:
        await self._cancel_during(rig, call, frozen=True)

    async def _cancel_during(self, rig: Rig, call: Call, *, frozen: bool = False) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with nothing_left(rig.patience), trio.open_nursery() as nursery:
            ready, go = trio.Event(), trio.Event()

            async def consume() -> None:
                async with client.reading(source) as reader:
                    await reader.publish(b"1", b"2")
                    await reader.take(2)
                    ready.set()
                    await go.wait()
                    await call(reader)

            scope = trio.CancelScope()

            async def cut() -> None:
                go.set()
                with trio.move_on_after(0.1):
                    await trio.sleep_forever()  # the call is well under way
                began = trio.current_time()
                scope.cancel()
                await over.wait()
                took = trio.current_time() - began
                # A source is closed and then a session, each in at most half a second; the rest is for a busy machine.
                assert took <= 2 * CLOSE_LIMIT, f"it took {took:.2f} s from the cancel to the end"

            over = trio.Event()

            async def run() -> None:
                with scope:
                    await consume()
                over.set()

            nursery.start_soon(run)
            with trio.fail_after(2 * rig.patience):
                await ready.wait()
            if frozen:
                async with rig.frozen():
                    await cut()
            else:
                await cut()

    async def test_opening_can_be_cancelled_at_any_moment_and_leaves_nothing_behind(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        await consume_all(client, source)
        async with nothing_left(rig.patience):
            for moment in MOMENTS:
                with trio.move_on_after(moment):
                    async with client.reading(source):
                        await trio.sleep_forever()
        async with client.reading(source) as reader:
            await reader.publish(b"and all is well")
            await reader.take_one()

    async def test_a_session_can_be_opened_and_closed_many_times(self, rig: Rig) -> None:
        client = Client(rig)
        async with nothing_left(rig.patience):
            for _ in range(5):
                async with client.session() as session:
                    await session.probe()

    async def test_a_source_that_is_closed_leaves_its_session_and_its_siblings_alone(self, rig: Rig) -> None:
        client, one, two = Client(rig), rig.source(fresh("one")), rig.source(fresh("two"))
        async with client.session() as session, client.open(session, one) as reader:
            async with client.open(session, two) as sibling:
                await sibling.publish(b"1")
                await sibling.ack(await sibling.take_one())
            await reader.publish(b"2")
            await reader.ack(await reader.take_one())
            async with client.open(session, two) as sibling:
                assert await sibling.take_until_fence() == []
