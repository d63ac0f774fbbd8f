"""What a confirm is worth."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ...errors import BrokerUnavailable, OutcomeUnknown, SessionLost, Unroutable, leaves
from .client import Client, bodies, consume_all, fail_after, fresh
from .rig import Rig, needs, where
from .waiting import CLOSE_LIMIT, QUIET

#: Seconds after which something is cut off, for a sweep over the moments of a short piece of I/O: all at once, in it,
#: and when it is likely over.
MOMENTS = (0.0, 0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.02)


@pytest.mark.trio
class Publishing:
    async def test_all_of_a_batch_is_confirmed_and_delivered_in_its_order(self, rig: Rig) -> None:
        sent = [b"%d" % number for number in range(300)]
        client = Client(rig)
        async with client.reading(rig.source(fresh())) as reader:
            await reader.publish(*sent)
            received = bodies(await reader.take(len(sent)))
        if rig.features.ordering == "none":
            received.sort(key=int)
        assert received == sent

    async def test_a_confirmed_message_is_stored_even_if_its_sender_is_gone_at_once(self, rig: Rig) -> None:
        sender, receiver, source = Client(rig), Client(rig), rig.source(fresh())
        await consume_all(receiver, source)  # the source exists
        with trio.CancelScope() as scope:
            async with sender.session() as session:
                await sender.publish(session, [sender.outgoing(source, b"1"), sender.outgoing(source, b"2")])
                scope.cancel()
        assert bodies(await consume_all(receiver, source)) == [b"1", b"2"]

    async def test_publishes_and_probes_are_answered_while_a_read_waits(self, rig: Rig) -> None:
        client = Client(rig)
        taken = trio.Event()

        async def read() -> None:
            await reader.receive()
            taken.set()

        async with client.reading(rig.source(fresh())) as reader, trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(QUIET)
            with fail_after(client.patience, "a probe was not answered while a source was read"):
                await reader.session.probe()
            await reader.publish(b"1")
            with fail_after(client.patience, "the waiting read did not get the message"):
                await taken.wait()

    async def test_a_cancelled_publish_has_sent_its_message_at_most_once(self, rig: Rig) -> None:
        sender, source = Client(rig), rig.source(fresh())
        confirmed: list[str] = []
        await consume_all(sender, source)
        for moment in MOMENTS:
            async with sender.session() as session:
                outgoing = sender.outgoing(source, b"x" * 50_000)
                # The runtime cancels a publish only to tear down its session, so this one is not used again.
                with trio.move_on_after(moment):
                    await sender.publish(session, [outgoing])
                    confirmed.append(outgoing.message.id)
        received = [delivery.message.id for delivery in await consume_all(sender, source)]
        assert len(received) == len(set(received)), "sent twice"
        assert set(confirmed) <= set(received), "confirmed and not there"

    @where(unroutable=True)
    async def test_a_message_that_nobody_could_ever_receive_is_refused_alone(self, rig: Rig) -> None:
        client = Client(rig)
        nowhere = rig.nowhere(fresh("nowhere"))
        async with client.reading(rig.source(fresh())) as reader:
            here = reader.source
            batch = [client.outgoing(to, body) for to, body in [(here, b"1"), (nowhere, b"2"), (here, b"3")]]
            with fail_after(client.patience, "the publishes were not answered"):
                first, second, third = await reader.session.publish(batch)
            assert (first, third) == (None, None)
            assert isinstance(second, Unroutable)
            assert bodies(await reader.take(2)) == [b"1", b"3"]

    @where(unroutable=False)
    async def test_a_message_published_before_anybody_reads_waits_for_the_first_reader(self, rig: Rig) -> None:
        client = Client(rig)
        source = rig.source(fresh())
        async with client.session() as session:
            await client.publish(session, [client.outgoing(source, b"early")])
        assert bodies(await consume_all(client, source)) == [b"early"]

    @needs(Rig.frozen, Rig.outage)
    async def test_a_publish_that_a_fault_interrupts_is_stored_once_or_said_to_be_doubtful(self, rig: Rig) -> None:
        client, source = Client(rig), rig.source(fresh())
        outcome: list[str] = []
        await consume_all(client, source)

        async def publish() -> None:
            outgoing = client.outgoing(source, b"in doubt")
            try:
                (result,) = await session.publish([outgoing])
            except SessionLost as loss:
                outcome.append("unknown" if loss.sent else "not sent")
            else:
                assert result is None or isinstance(result, OutcomeUnknown | BrokerUnavailable), result
                outcome.append(
                    "confirmed" if result is None else "unknown" if isinstance(result, OutcomeUnknown) else "not sent"
                )

        try:
            async with client.session() as session:
                async with trio.open_nursery() as nursery:
                    async with rig.frozen():
                        nursery.start_soon(publish)
                        await trio.testing.wait_all_tasks_blocked(QUIET)
                        assert outcome == [], "confirmed by a broker that does not answer"
                        async with rig.outage():
                            with trio.move_on_after(CLOSE_LIMIT):
                                await trio.sleep_forever()  # unless the session is over at once
                    nursery.cancel_scope.deadline = trio.current_time() + client.patience
        except* SessionLost as losses:
            outcome = outcome or ["unknown" if any(loss.sent for loss in _losses(losses)) else "not sent"]
        stored = bodies(await consume_all(client, source))
        assert stored in {"confirmed": ([b"in doubt"],), "not sent": ([],)}.get(
            outcome[0] if outcome else "unknown", ([], [b"in doubt"])
        ), f"{outcome} and yet {stored}"


def _losses(group: BaseExceptionGroup[SessionLost]) -> list[SessionLost]:
    return [leaf for leaf in leaves(group) if isinstance(leaf, SessionLost)]
