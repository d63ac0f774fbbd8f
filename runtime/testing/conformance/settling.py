"""What becomes of a delivery that is settled: once, as asked, and of no other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ...adapter import Settlement
from ...delivery import ACK, Outcome, Reject, Release
from ...errors import SessionLost
from .client import Client, bodies, consume_all, fresh
from .publishing import MOMENTS
from .rig import Rig, where
from .waiting import QUIET

#: Seconds. Long enough to be seen, and shorter than any lease.
DELAY = 0.3


@pytest.mark.trio
class Settling:
    async def test_an_acknowledged_message_never_comes_again(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with client.reading(source) as reader:
            await reader.publish(b"1", b"2", b"3")
            await reader.ack(*await reader.take(3))
            assert await reader.take_until_fence() == []
        assert await consume_all(client, source) == []
        assert await consume_all(Client(rig), source) == [], "nor to somebody else"

    async def test_a_released_message_comes_again_and_its_attempt_counts(self, rig: Rig) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            (id,) = await reader.publish(b"again", headers={"tenant": "acme"}, correlation_id="c")
            for attempt in (1, 2, 3):
                delivery = await reader.take_one()
                message = delivery.message
                assert (message.id, message.body, message.attempt) == (id, b"again", attempt)
                assert (dict(message.headers), message.correlation_id) == ({"tenant": "acme"}, "c")
                await reader.settle(Release() if attempt < 3 else ACK, delivery)

    async def test_an_uncounted_release_is_no_attempt(self, rig: Rig) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(b"again")
            attempts: list[int] = []
            for outcome in (Release(counted=False), Release(), Release(counted=False), ACK):
                delivery = await reader.take_one()
                attempts.append(delivery.message.attempt)
                await reader.settle(outcome, delivery)
            assert attempts == [1, 1, 2, 2]

    @where(attempts="broker")
    async def test_a_broker_that_remembers_attempts_remembers_them_across_sessions_and_readers(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with client.reading(source) as reader:
            await reader.publish(b"again")
            await reader.settle(Release(), await reader.take_one())
        for each, attempt in ((client, 2), (Client(rig), 3)):
            async with each.reading(source) as reader:
                delivery = await reader.take_one()
                assert delivery.message.attempt == attempt
                await reader.settle(Release(), delivery)

    async def test_a_message_released_for_later_comes_then_and_holds_up_no_other(self, rig: Rig) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(b"later", key=None)
            delivery = await reader.take_one()
            released = trio.current_time()
            await reader.settle(Release(after=DELAY), delivery)
            await reader.publish(b"now", key=None)
            assert bodies(await reader.take()) == [b"now"]
            again = await reader.take_one()
            # The broker may have a clock of its own, in milliseconds.
            assert trio.current_time() - released >= DELAY - 0.02
            assert (again.message.body, again.message.attempt) == (b"later", 2)

    async def test_a_rejected_message_is_set_aside_whole_with_the_reason_and_never_comes_again(self, rig: Rig) -> None:
        client, name = Client(rig), fresh()
        source = rig.source(name)
        fields = {"key": "k", "content_type": "text/plain", "correlation_id": "c", "reply_to": "r"}
        async with client.reading(source) as reader:
            (id,) = await reader.publish(b"\x00 poison", headers={"tenant": "acme"}, **fields)
            await reader.settle(Reject("it is poison: größe"), await reader.take_one())
            assert await reader.take_until_fence() == []
        assert await consume_all(Client(rig), source) == []
        async with client.reading(rig.source(f"{name}.rejected")) as reader:
            message = (await reader.take_one()).message
            assert await reader.take_until_fence() == []
        assert (message.id, message.body) == (id, b"\x00 poison")
        assert {field: getattr(message, field) for field in fields} == fields
        assert message.headers["tenant"] == "acme"
        assert message.headers["rejected-reason"] == "it is poison: größe"
        assert name in message.headers["rejected-from"]

    async def test_each_of_a_batch_gets_its_own_outcome_across_sources(self, rig: Rig) -> None:
        client, names = Client(rig), (fresh("one"), fresh("two"))
        one, two = map(rig.source, names)
        async with client.session() as session, client.open(session, one) as first, client.open(session, two) as second:
            await first.publish(b"ack", b"release", b"reject", b"hold")
            await second.publish(b"release", b"hold", b"ack", b"reject")
            held = [*await first.take(4), *await second.take(4)]
            outcomes: dict[bytes, Outcome] = {b"ack": ACK, b"release": Release(), b"reject": Reject("bad")}
            await first.settle_batch(
                [Settlement(d, outcomes[d.message.body]) for d in held if d.message.body in outcomes]
            )
            for reader in (first, second):
                assert bodies(await reader.take()) == [b"release"]
                assert await reader.take_until_fence() == []
                await reader.ack(*client.held[reader.source].values())
        for name in names:
            assert await consume_all(client, rig.source(name)) == []
            assert bodies(await consume_all(client, rig.source(f"{name}.rejected"))) == [b"reject"]

    async def test_settlements_are_taken_while_a_read_waits(self, rig: Rig) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(b"1")
            delivery = await reader.take_one()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.take_one)
                await trio.testing.wait_all_tasks_blocked(QUIET)
                await reader.settle(Release(), delivery)

    @where(lease="broker")
    @pytest.mark.parametrize("outcome", [ACK, Release(), Reject("bad")], ids=["ack", "release", "reject"])
    async def test_a_settlement_that_is_sent_twice_counts_once(self, rig: Rig, outcome: Outcome) -> None:
        """As the runtime does when a session ends before the answer, and leases outlive it."""
        client, name = Client(rig), fresh()
        source = rig.source(name)
        async with client.reading(source) as reader:
            await reader.publish(b"1", b"other")
            delivery, other = await reader.take(2)
            for _ in range(2):
                await reader.session.settle([Settlement(delivery, outcome)])
            del client.held[source][delivery.receipt]
            if isinstance(outcome, Release):
                again = await reader.take_one()
                assert (again.message.body, again.message.attempt) == (b"1", 2)
                await reader.ack(again)
            assert await reader.take_until_fence() == [], "settled once, and the other one not at all"
            await reader.ack(other)
        assert await consume_all(client, source) == []
        if isinstance(outcome, Reject):
            assert bodies(await consume_all(client, rig.source(f"{name}.rejected"))) == [b"1"]

    async def test_an_ended_session_does_not_say_that_it_settled(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        async with client.reading(source) as ended:
            await ended.publish(b"1")
            delivery = await ended.take_one()
        with trio.fail_after(rig.patience):
            try:
                results = await ended.session.settle([Settlement(delivery, ACK)])
            except SessionLost:
                pass
            else:
                assert isinstance(results[0], Exception), "the session is over, so this was not settled"

    async def test_a_cancelled_settlement_is_done_or_not_and_the_message_is_never_lost(self, rig: Rig) -> None:
        """What is cut off is a release: afterwards the message has come again or is still held, and can be settled."""
        for moment in MOMENTS[::2]:
            client, source = Client(rig), rig.source(fresh())
            async with client.reading(source) as reader:
                await reader.publish(b"1")
                delivery = await reader.take_one()
                with trio.move_on_after(moment):
                    await reader.session.settle([Settlement(delivery, Release())])
            if rig.features.lease == "broker":
                # Still held for all that the runtime knows, so it settles again on the next session.
                async with client.session() as session:
                    await session.settle([Settlement(delivery, Release())])
                client.held[source].clear()
            async with client.reading(source) as reader:
                assert bodies(await reader.take()) == [b"1"]
