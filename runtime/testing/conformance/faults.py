"""The adapter under the real runtime while its broker is away, or does not answer."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ...app import Runtime
from ...backoff import Backoff
from ...errors import BrokerUnavailable, MessagingError, OutcomeUnknown
from ...link import LinkState
from .client import Client, bodies, consume_all, fresh
from .leftovers import nothing_left
from .rig import Rig, needs
from .running import until_ready
from .waiting import CLOSE_LIMIT, QUIET, until

#: Tries again at once, so that the tests take no longer than the broker.
QUICK = Backoff(first=0.02, cap=0.2)


@pytest.mark.trio
class Faults:
    @needs(Rig.outage)
    async def test_a_run_starts_at_once_without_its_broker_and_connects_when_that_appears(self, rig: Rig) -> None:
        broker, source = rig.make_broker(backoff=QUICK), rig.source(fresh())
        seen: list[int] = []

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            seen.append(number)

        app = Runtime(broker)
        async with trio.open_nursery() as nursery:
            async with rig.outage():
                began = trio.current_time()
                await nursery.start(app.serve)
                assert trio.current_time() - began < 1
                await until(lambda: app.status().brokers[0].error, rig.patience, lambda: "no error is shown")
                assert not app.status().ready
            await until_ready(app, rig)
            await broker.publish(1, source)
            await until(lambda: seen == [1], rig.patience, lambda: seen)
            nursery.cancel_scope.cancel()

    @needs(Rig.outage)
    async def test_through_an_outage_everything_confirmed_is_handled_and_publishes_wait_for_its_end(
        self, rig: Rig
    ) -> None:
        broker, source = rig.make_broker(backoff=QUICK), rig.source(fresh())
        confirmed: set[int] = set()
        doubtful: set[int] = set()
        seen: set[int] = set()

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            seen.add(number)

        async def publish(number: int) -> None:
            try:
                await broker.publish(number, source)
            except OutcomeUnknown:
                doubtful.add(number)
            else:
                confirmed.add(number)

        app = Runtime(broker)
        async with nothing_left(rig.patience):
            async with app.open():
                await until_ready(app, rig)
                for number in range(20):
                    await publish(number)
                async with trio.open_nursery() as nursery:
                    async with rig.outage():
                        for number in range(20, 40):
                            nursery.start_soon(publish, number)
                        await until(
                            lambda: not app.status().ready, rig.patience, lambda: "the outage is not to be seen"
                        )
                        assert not any(number >= 20 for number in confirmed), "confirmed by a broker that is away"
                        for number in range(40, 60):
                            nursery.start_soon(publish, number)
                        await trio.testing.wait_all_tasks_blocked(QUIET)
                    nursery.cancel_scope.deadline = trio.current_time() + 2 * rig.patience
                assert confirmed | doubtful == set(range(60)), "each publish has its answer"
                assert confirmed >= set(range(40, 60)), "what was published during the outage was sent after it"
                await until(lambda: confirmed <= seen, rig.patience, lambda: f"lost: {confirmed - seen}")
            assert seen <= confirmed | doubtful

    @needs(Rig.outage)
    async def test_a_publish_during_an_outage_ends_with_a_cancel_or_at_its_limit(self, rig: Rig) -> None:
        broker, source = rig.make_broker(backoff=QUICK, publish_limit=0.5), rig.source(fresh())
        await consume_all(Client(rig), source)
        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            async with rig.outage():
                await until(
                    lambda: app.status().brokers[0].state is not LinkState.CONNECTED,
                    rig.patience,
                    lambda: "the outage is not to be seen",
                )
                began = trio.current_time()
                with trio.move_on_after(0.05) as cut:
                    await broker.publish(b"cancelled", source)
                assert cut.cancelled_caught
                assert trio.current_time() - began < 0.05 + CLOSE_LIMIT
                failure: MessagingError | None = None
                try:
                    await broker.publish(b"limited", source)
                except (BrokerUnavailable, OutcomeUnknown) as error:
                    failure = error
                assert failure is not None, "confirmed by a broker that is away"
                assert trio.current_time() - began < 0.05 + 0.5 + 2 * CLOSE_LIMIT
            await until_ready(app, rig)
            await broker.publish(b"well again", source)
        stored = bodies(await consume_all(Client(rig), source))
        assert stored[-1] == b"well again"
        if isinstance(failure, BrokerUnavailable):
            # The cancelled one may be there: a client that finds an outage out before its sibling has it under way.
            assert b"limited" not in stored, "certainly not sent, it was said"

    @needs(Rig.frozen)
    async def test_a_publish_into_a_frozen_broker_has_an_unknown_outcome_at_its_limit(self, rig: Rig) -> None:
        # The watchdog is to keep out of it.
        broker = rig.make_broker(backoff=QUICK, publish_limit=0.5, probe_interval=600)
        source = rig.source(fresh())
        await consume_all(Client(rig), source)
        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            async with rig.frozen():
                began = trio.current_time()
                with pytest.raises(OutcomeUnknown):
                    await broker.publish(b"frozen", source)
                assert trio.current_time() - began < 0.5 + CLOSE_LIMIT
            await until_ready(app, rig)
        stored = bodies(await consume_all(Client(rig), source))
        assert stored in ([], [b"frozen"]), "sent once, and not again"

    @needs(Rig.frozen)
    async def test_a_frozen_broker_is_found_out_and_found_again(self, rig: Rig) -> None:
        broker, source = rig.make_broker(backoff=QUICK, probe_interval=0.3, connect_limit=1.0), rig.source(fresh())
        seen: list[int] = []

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            seen.append(number)

        app = Runtime(broker)
        async with app.open():
            await until_ready(app, rig)
            async with rig.frozen():
                await until(
                    lambda: app.status().brokers[0].state is not LinkState.CONNECTED,
                    rig.patience,
                    lambda: "nothing was noticed",
                )
            await until_ready(app, rig)
            await broker.publish(1, source)
            await until(lambda: seen == [1], rig.patience, lambda: seen)

    @needs(Rig.outage, Rig.frozen)
    @pytest.mark.parametrize("fault", ["outage", "frozen"])
    async def test_tearing_down_a_run_in_a_fault_is_quick_and_leaves_nothing(self, rig: Rig, fault: str) -> None:
        broker, source = rig.make_broker(backoff=QUICK), rig.source(fresh())
        started = trio.Event()

        @broker.subscriber(source)
        async def handle(number: int) -> None:
            started.set()
            await trio.sleep_forever()

        async def publish() -> None:
            with pytest.raises((OutcomeUnknown, BrokerUnavailable)):
                await broker.publish(2, source)

        app = Runtime(broker)
        async with nothing_left(rig.patience):
            async with trio.open_nursery() as nursery:
                await nursery.start(app.serve)
                await until_ready(app, rig)
                await broker.publish(1, source)
                with trio.fail_after(rig.patience):
                    await started.wait()
                async with getattr(rig, fault)():
                    nursery.start_soon(publish)
                    await trio.testing.wait_all_tasks_blocked(QUIET)
                    began = trio.current_time()
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True, deadline=began + 2 * CLOSE_LIMIT + 1):
                        await until(
                            lambda: not app.status().brokers,
                            2 * CLOSE_LIMIT,
                            lambda: f"still there after {2 * CLOSE_LIMIT:g} s: {app.status()}",
                        )
