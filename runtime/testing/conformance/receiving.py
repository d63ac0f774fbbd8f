"""Who gets what, how much of it, and in which order."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ...adapter import Session
from ...delivery import Delivery
from ...errors import SessionLost
from .client import Client, Reader, bodies, consume_all, fail_after, fresh
from .publishing import MOMENTS
from .rig import Rig, needs, where
from .waiting import QUIET, until


@pytest.mark.trio
class Receiving:
    @pytest.mark.parametrize("most", [1, 3, 7])
    async def test_receive_never_returns_more_than_it_was_asked_for(self, rig: Rig, most: int) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(*[b"%d" % number for number in range(20)])
            taken: list[Delivery] = []
            with fail_after(rig.patience, lambda: f"20 messages did not come: {taken}"):
                while len(taken) < 20:
                    taken += await reader.receive(most)  # which looks at the number
            assert sorted(map(int, bodies(taken))) == list(range(20))

    async def test_receive_waits_until_there_is_a_message(self, rig: Rig) -> None:
        taken: list[Delivery] = []

        async def read() -> None:
            taken.extend(await reader.take())

        async with Client(rig).reading(rig.source(fresh())) as reader, trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with trio.move_on_after(0.05):
                await trio.sleep_forever()
            assert taken == []
            await reader.publish(b"1")
            await until(lambda: taken, rig.patience, lambda: "the message did not come")

    @where(ordering="process")
    async def test_messages_of_a_key_come_in_the_order_in_which_they_were_published(self, rig: Rig) -> None:
        client = Client(rig)
        async with client.reading(rig.source(fresh())) as reader:
            for number in range(10):
                await reader.publish(*[b"%d" % (number * 5 + offset) for offset in range(5)])
            taken: list[Delivery] = []
            while len(taken) < 50:
                some = await reader.take(7 if len(taken) < 49 else 1)
                await reader.ack(*some)
                taken += some
        assert [int(body) for body in bodies(taken)] == list(range(50))

    async def test_the_readers_of_one_source_share_its_messages(self, rig: Rig) -> None:
        source, seen = rig.source(fresh()), list[Delivery]()
        clients = Client(rig), Client(rig)

        async def read(reader: Reader) -> None:
            while True:
                taken = await reader.receive(2)
                live = [delivery for delivery in taken if delivery not in reader.client.lost]
                await reader.ack(*live)
                seen.extend(live)

        async with clients[0].reading(source) as one, clients[1].reading(source) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, one)
                nursery.start_soon(read, two)
                for number in range(30):
                    await one.publish(b"%d" % number, key=f"{number}")
                await until(lambda: len(seen) >= 30, rig.patience, lambda: f"{len(seen)} of 30: {bodies(seen)}")
                nursery.cancel_scope.cancel()
        assert sorted(int(body) for body in bodies(seen)) == list(range(30)), "each once, to one of them"

    @where(groups=True)
    async def test_every_group_gets_every_message(self, rig: Rig) -> None:
        client, name = Client(rig), fresh()
        sources = [rig.source(name, group) for group in ("billing", "audit")]
        for source in sources:
            await consume_all(client, source)
        async with client.session() as session:
            await client.publish(session, [client.outgoing(sources[0], b"%d" % number) for number in range(5)])
        # Each has seen the fence of the other, or not, depending on who came first.
        for source in sources:
            seen = [body for body in bodies(await consume_all(client, source)) if not body.startswith(b"fence")]
            assert seen == [b"0", b"1", b"2", b"3", b"4"], source

    async def test_the_routing_rule_tells_where_messages_go(self, rig: Rig) -> None:
        client, name = Client(rig), fresh()
        broker = client.broker
        source, other = (broker.source(rig.source(each)) for each in (name, fresh("other")))
        readings = broker.reading(source), broker.reading(other)
        assert not set(readings[0].logs) & set(readings[1].logs), "two sources, two logs"
        if rig.features.groups:
            one, two = (broker.reading(broker.source(rig.source(name, group))) for group in ("billing", "audit"))
            assert one.logs == two.logs == readings[0].logs
            assert one.group != two.group
        else:
            assert readings[0].group == ""
        outgoing = client.outgoing(source, b"1")
        logs = broker.route(outgoing.message, outgoing.source, {source, other})
        assert set(logs) & set(readings[0].logs), "what is published to a source reaches its readers"
        assert not set(logs) & set(readings[1].logs), "and nobody else"
        async with client.session() as session, client.open(session, source) as here:
            async with client.open(session, other) as there:
                await here.publish(b"1")
                assert bodies(await there.take_until_fence()) == []
                assert bodies(await here.take_until_fence()) == [b"1"]

    async def test_a_cancelled_receive_loses_nothing(self, rig: Rig) -> None:
        """Whatever the broker handed out and `receive` did not return comes again, once the source is opened again."""
        client, source = Client(rig), rig.source(fresh())
        sent: list[str] = []
        seen: list[str] = []

        async def read(reader: Reader, scope: trio.CancelScope) -> None:
            with scope:
                seen.extend(delivery.message.id for delivery in await reader.receive())

        async def cut_off(session: Session, moment: float | None, ticks: int = 0) -> None:
            """Cut a read off so many seconds after messages were sent, or so many ticks after they were confirmed."""
            async with client.open(session, source) as reader:
                scope = trio.CancelScope()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read, reader, scope)
                    await trio.testing.wait_all_tasks_blocked()
                    if moment is not None:
                        scope.deadline = trio.current_time() + moment
                    sent.extend(await reader.publish(b"1", b"2"))
                    for _ in range(ticks):
                        await trio.lowlevel.checkpoint()
                    if moment is None:
                        scope.cancel()
                await reader.ack(*client.held[source].values())
            if len(seen) < len(sent):
                async with client.open(session, source) as reader:
                    rest = await reader.take(len(sent) - len(seen))
                    seen.extend(delivery.message.id for delivery in rest)
                    await reader.ack(*rest)
            assert sorted(seen) == sorted(sent), "each message once"

        async with client.session() as session:
            for moment in MOMENTS[::2]:
                await cut_off(session, moment)
            for ticks in range(3):
                await cut_off(session, None, ticks)
        assert await consume_all(client, source) == []

    @needs(Rig.frozen)
    async def test_what_the_broker_hands_to_a_read_that_is_gone_by_then_comes_again(self, rig: Rig) -> None:
        """The broker is frozen while a message is sent to it and the read is cut off: it learns of both at once."""
        client, source = Client(rig), rig.source(fresh())
        scope, over = trio.CancelScope(), trio.Event()
        confirmed = False

        async def read(session: Session) -> None:
            with scope:
                async with client.open(session, source) as reader:
                    waiting.set()
                    await reader.receive()
            over.set()

        async def publish(session: Session) -> None:
            nonlocal confirmed
            await client.publish(session, [client.outgoing(source, b"1")])
            confirmed = True

        try:
            async with client.session() as session, trio.open_nursery() as nursery:
                waiting = trio.Event()
                nursery.start_soon(read, session)
                await waiting.wait()
                await trio.testing.wait_all_tasks_blocked(QUIET)
                async with rig.frozen():
                    nursery.start_soon(publish, session)
                    await trio.testing.wait_all_tasks_blocked(QUIET)
                    scope.cancel()
                    await over.wait()
        except* SessionLost:
            pass  # a rig may have to cut connections that it froze
        assert bodies(await consume_all(client, source)) in ([b"1"], [] if not confirmed else [b"1"])

    async def test_the_lag_is_unknown_or_goes_to_zero_when_all_is_received(self, rig: Rig) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(*[b"%d" % number for number in range(5)])
            lag = reader.receiver.lag
            assert lag is None or 0 <= lag <= 5
            await reader.ack(*await reader.take(5))
            await until(
                lambda: reader.receiver.lag in (None, 0), rig.patience, lambda: f"the lag stays {reader.receiver.lag}"
            )
