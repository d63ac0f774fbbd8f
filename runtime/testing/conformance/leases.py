"""To whom a message belongs while it is held, and what a lost session or a dead consumer does to it."""

from __future__ import annotations

import pytest
import trio

from ...delivery import Delivery, Release
from .client import Client, bodies, consume_all, fail_after, fresh
from .rig import Rig, needs, needs_lease, where
from .waiting import until


@pytest.mark.trio
class Leases:
    @pytest.mark.parametrize("end", ["closed", "cancelled"])
    async def test_what_is_held_when_its_session_ends_can_be_settled_on_the_next_or_comes_again(
        self, rig: Rig, end: str
    ) -> None:
        client, source = Client(rig), rig.source(fresh())
        features = rig.features
        with trio.CancelScope() as scope:
            async with client.reading(source) as reader:
                await reader.publish(b"first", b"acked", b"released", b"last")
                first, acked, released, last = await reader.take(4)
                await reader.ack(last, first)
                if end == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        if features.lease == "broker":
            assert client.lost == [], "the end of a session is no lease that was found gone"
        async with client.reading(source) as reader:
            if features.lease == "broker":
                assert await reader.take_until_fence() == [], "what is held never comes again"
                await reader.ack(acked)
                await reader.settle(Release(), released)
                once_more = await reader.take_one()
                assert (once_more.message.body, once_more.message.attempt) == (b"released", 2)
                await reader.ack(once_more)
            else:
                expected = [b"acked", b"released"] if features.acks == "each" else [b"acked", b"released", b"last"]
                again = await reader.take(len(expected))
                assert sorted(bodies(again)) == sorted(expected)
                if features.attempts == "broker":
                    assert [delivery.message.attempt for delivery in again] == [2] * len(expected)
                await reader.ack(*again)
            assert await reader.take_until_fence() == []
        assert await consume_all(client, source) == []

    @needs_lease
    async def test_what_a_dead_consumer_held_goes_to_another(self, rig: Rig) -> None:
        dead, heir, source = Client(rig), Client(rig), rig.source(fresh())
        async with dead.reading(source) as reader:
            await reader.publish(b"1", b"2")
            await reader.take(2)
        heir.patience += rig.lease or 0
        async with heir.reading(source) as reader:
            taken = await reader.take(2)
            assert sorted(bodies(taken)) == [b"1", b"2"]
            if rig.features.attempts == "broker":
                assert [delivery.message.attempt for delivery in taken] == [2, 2]

    @where(lease="broker")
    @needs_lease
    async def test_what_is_held_for_many_leases_stays_with_its_holder(self, rig: Rig) -> None:
        holder, other, source = Client(rig), Client(rig), rig.source(fresh())
        assert rig.lease is not None
        async with holder.reading(source) as reader:
            await reader.publish(b"1", b"2")
            held = await reader.take(2)
            async with other.reading(source) as rival:
                stolen: list[Delivery] = []
                with trio.move_on_after(rig.lease * 2.5):
                    stolen = await rival.receive()
                assert stolen == []
            assert holder.lost == []
            await reader.ack(*held)
        assert await consume_all(other, source) == []

    @needs(Rig.take_lease)
    async def test_the_adapter_reports_every_lease_that_it_finds_gone_and_no_other(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with client.reading(source) as reader:
            await reader.publish(b"1", b"2", b"3")
            first, kept, third = await reader.take(3)
            await rig.take_lease(first)
            await rig.take_lease(third)
            await until(
                lambda: {first, third} <= set(client.lost), rig.patience, lambda: f"on_lost heard only of {client.lost}"
            )
            # Or there is no taking one without the others, as with a partition.
            if kept not in client.lost:
                await reader.ack(kept)

    async def test_closing_a_source_gives_back_what_was_taken_ahead_and_never_returned(self, rig: Rig) -> None:
        closer, heir, source = Client(rig), Client(rig), rig.source(fresh())
        async with closer.session() as session:
            async with closer.open(session, source) as reader:
                await reader.publish(*[b"%d" % number for number in range(10)])
                first = await reader.take_one()
                await reader.ack(first)
            # The session lives on, so nothing but the close can have given them back.
            async with heir.reading(source) as reader:
                with fail_after(rig.patience, "what the closed source had taken ahead did not come"):
                    rest = await reader.take(9)
            assert sorted(bodies([first, *rest])) == [b"%d" % number for number in range(10)]
            if rig.features.attempts == "broker":
                assert {delivery.message.attempt for delivery in rest} == {1}, "nobody had been given them"
