"""The adapter under the real runtime: what a user of it relies on."""

from __future__ import annotations

import pytest
import trio

from ...app import Runtime
from ...errors import ConfigurationError, SessionLost, Unroutable
from ...message import Message
from .client import Client, bodies, consume_all, fail_after, fresh
from .leftovers import Holdings, nothing_left
from .rig import Rig, where
from .waiting import until


async def until_ready(app: Runtime, rig: Rig) -> None:
    await until(lambda: app.status().ready, rig.patience, lambda: f"not ready: {app.status()}")


@pytest.mark.trio
class Running:
    async def test_a_broker_object_is_a_declaration_and_touches_nothing(self, rig: Rig) -> None:
        before = Holdings.now()
        broker = rig.make_broker(name="declared")
        assert Holdings.now().beyond(before) == {}
        assert broker.name == "declared"
        assert broker.features == rig.features
        spec = rig.source(fresh())
        assert hash(broker.source(spec)) == hash(broker.source(spec))

    async def test_a_run_handles_each_message_once_within_its_bounds_and_leaves_nothing(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        seen: list[int] = []
        running = most_running = most_held = 0

        @broker.subscriber(source, concurrency=4, prefetch=9)
        async def handle(number: int) -> None:
            nonlocal running, most_running, most_held
            running += 1
            most_running = max(most_running, running)
            most_held = max(most_held, *(s.unsettled for b in app.status().brokers for s in b.subscriptions))
            await trio.sleep(0.001)
            running -= 1
            seen.append(number)

        app = Runtime(broker)
        async with nothing_left(rig.patience):
            async with app.open() as run:
                await until_ready(app, rig)
                async with trio.open_nursery() as nursery:
                    for number in range(100):
                        nursery.start_soon(broker.publish, number, source)
                await until(lambda: len(seen) >= 100, rig.patience, lambda: f"{len(seen)} of 100")
            assert run.report.exit_status == 0
        assert sorted(seen) == list(range(100))
        assert most_running <= 4
        assert most_held <= 9
        assert await consume_all(Client(rig), source) == [], "every one was acknowledged before the run was over"

    async def test_a_failed_message_is_tried_again_and_then_acknowledged(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        attempts: list[int] = []

        @broker.subscriber(source)
        async def handle(number: int, message: Message) -> None:
            attempts.append(message.attempt)
            if len(attempts) < 3:
                raise ValueError("not yet")

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            await broker.publish(1, source)
            # The runtime's own back-off comes on top: 0.2 and 0.4 s.
            await until(lambda: len(attempts) == 3, rig.patience + 1, lambda: attempts)
        assert attempts == [1, 2, 3]
        assert await consume_all(Client(rig), source) == []

    async def test_a_body_that_does_not_decode_is_set_aside_and_its_neighbours_are_handled(self, rig: Rig) -> None:
        broker, name = rig.make_broker(), fresh()
        source, seen = rig.source(name), list[int]()

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            seen.append(number)

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            await broker.publish(1, source)
            await broker.publish(b"\xff no JSON", source)
            await broker.publish(2, source)
            await until(lambda: len(seen) == 2, rig.patience, lambda: seen)
        assert bodies(await consume_all(Client(rig), rig.source(f"{name}.rejected"))) == [b"\xff no JSON"]
        assert await consume_all(Client(rig), source) == []

    async def test_order_holds_per_key_where_it_is_offered_and_is_refused_elsewhere(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        seen: dict[str, list[int]] = {key: [] for key in "abcde"}

        async def handle(number: int, message: Message) -> None:
            assert message.key is not None
            if number % 7 == 3 and message.attempt == 1:
                raise ValueError("once")
            await trio.sleep(0.0005 * (number % 3))
            seen[message.key].append(number)

        if rig.features.ordering == "none":
            with pytest.raises(ConfigurationError, match="ordered_by"):
                broker.subscriber(source, ordered_by="key")(handle)
            return
        broker.subscriber(source, ordered_by="key")(handle)
        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            for number in range(10):
                for key in seen:
                    await broker.publish(number, source, key=key)
            await until(lambda: all(len(s) >= 10 for s in seen.values()), rig.patience, lambda: seen)
        assert seen == {key: list(range(10)) for key in "abcde"}

    async def test_what_a_drain_takes_back_unread_goes_to_the_next_run_uncounted(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        started, go_on = trio.Event(), trio.Event()

        @broker.subscriber(source, concurrency=1, prefetch=8)
        async def handle(number: int) -> None:
            started.set()
            await go_on.wait()

        app = Runtime(broker)
        async with app.open() as run:
            await until_ready(app, rig)
            for number in range(10):
                await broker.publish(number, source)
            with fail_after(rig.patience, "nothing was handled"):
                await started.wait()
            run.stop()
            go_on.set()
        rest = await consume_all(Client(rig), source)
        assert len(rest) == 9
        assert len(set(bodies(rest))) == 9
        if rig.features.attempts == "broker":
            assert {delivery.message.attempt for delivery in rest} == {1}

    async def test_a_handler_that_is_cut_off_has_not_acknowledged(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        started = trio.Event()

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            started.set()
            await trio.sleep_forever()

        app = Runtime(broker)
        async with nothing_left(rig.patience), trio.open_nursery() as nursery:
            await nursery.start(app.serve)
            await until_ready(app, rig)
            await broker.publish(1, source)
            with fail_after(rig.patience, "it was not handled"):
                await started.wait()
            nursery.cancel_scope.cancel()
        async with Client(rig).reading(source) as reader:
            delivery = await reader.take_one()
            assert delivery.message.body == b"1"
            if rig.features.attempts == "broker":
                assert delivery.message.attempt == 2

    async def test_a_lost_session_is_replaced_and_what_was_being_handled_then_counts_by_its_lease(
        self, rig: Rig
    ) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        lasting = rig.features.lease == "broker"
        handled: list[tuple[int, int]] = []
        started, go_on = trio.Event(), trio.Event()

        @broker.subscriber(source)
        async def handle(number: int, message: Message) -> None:
            handled.append((number, message.attempt))
            started.set()
            await go_on.wait()

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            await broker.publish(1, source)
            with fail_after(rig.patience, "it was not handled"):
                await started.wait()
            link = broker.live().link
            link.lost(await link.session(), SessionLost("the suite says so"))
            await until(lambda: link.sessions >= 2 and app.status().ready, rig.patience, lambda: app.status())
            go_on.set()
            await broker.publish(2, source)
            await until(
                lambda: len(handled) >= (2 if lasting else 3) and not broker.live().subscriptions[0].dispatch.held,
                rig.patience,
                lambda: f"handled {handled}, {app.status()}",
            )
        assert [number for number, _ in handled].count(1) == (1 if lasting else 2)
        assert [number for number, _ in handled].count(2) == 1
        if not lasting and rig.features.attempts == "broker":
            assert (1, 2) in handled
        assert await consume_all(Client(rig), source) == []

    @where(groups=True)
    async def test_each_group_has_its_own_progress_in_one_broker(self, rig: Rig) -> None:
        broker, name = rig.make_broker(), fresh()
        sources = [rig.source(name, group) for group in ("billing", "audit")]
        seen: list[list[int]] = [[], []]

        @broker.subscriber(sources[0])
        async def bill(number: int) -> None:
            seen[0].append(number)

        @broker.subscriber(sources[1])
        async def audit(number: int) -> None:
            seen[1].append(number)

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            for number in range(10):
                await broker.publish(number, sources[0])
            await until(lambda: all(len(s) >= 10 for s in seen), rig.patience, lambda: seen)
        assert [sorted(s) for s in seen] == [list(range(10))] * 2

    async def test_the_same_app_can_be_served_again(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        seen: list[int] = []

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            seen.append(number)

        app = Runtime(broker)
        async with nothing_left(rig.patience):
            for round_ in range(3):
                async with app.open():
                    await until_ready(app, rig)
                    await broker.publish(round_, source)
                    await until(lambda r=round_: r in seen, rig.patience, lambda: seen)  # type: ignore[misc]
        assert seen == [0, 1, 2]

    async def test_two_brokers_of_a_kind_have_nothing_in_common(self, rig: Rig) -> None:
        one, two = rig.make_broker(name="one"), rig.make_broker(name="two")
        source, seen = rig.source(fresh()), list[int]()

        @two.subscriber(source)
        async def handle(number: int) -> None:
            seen.append(number)

        first, second = Runtime(one), Runtime(two)
        async with second.open():
            async with first.open():
                await until_ready(second, rig)
                await one.publish(1, source)
                await until(lambda: seen == [1], rig.patience, lambda: seen)
            await two.publish(2, source)
            await until(lambda: seen == [1, 2], rig.patience, lambda: seen)
            assert second.status().broker("two").sessions == 1

    async def test_a_publish_to_nowhere_is_refused_where_the_broker_can_tell(self, rig: Rig) -> None:
        broker = rig.make_broker()
        async with Runtime(broker).open():
            with fail_after(rig.patience, "the publish was not answered"):
                if rig.features.unroutable:
                    with pytest.raises(Unroutable):
                        await broker.publish(1, rig.nowhere(fresh("nowhere")))
                else:
                    await broker.publish(1, rig.nowhere(fresh("nowhere")))

    async def test_the_lag_of_a_subscription_is_unknown_or_ends_at_zero(self, rig: Rig) -> None:
        broker, source = rig.make_broker(), rig.source(fresh())
        seen: list[int] = []

        @broker.subscriber(source, concurrency=1)
        async def handle(number: int) -> None:
            seen.append(number)

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            for number in range(20):
                await broker.publish(number, source)

            def lag() -> int | None:
                return app.status().brokers[0].subscriptions[0].lag

            await until(lambda: len(seen) == 20 and lag() in (None, 0), rig.patience, lambda: (len(seen), lag()))
