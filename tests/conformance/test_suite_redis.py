"""Broken adapters that only a real server can show: leases that outlive a session, and answers that do not come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
import trio

import adapters.redis.session
from adapters.redis.connection import Connection
from adapters.redis.receiver import StreamReceiver
from adapters.redis.session import RedisSession
from runtime.adapter import Outgoing
from runtime.delivery import Reject
from runtime.errors import SessionLost
from runtime.testing.conformance import AdapterConformance

from ..bench.proxy import open_proxy
from ..bench.servers import RedisServer
from .test_redis import RedisRig
from .test_suite import Claim, fails

pytestmark = pytest.mark.broker

C = AdapterConformance


class ImpatientRig(RedisRig):
    lease = 0.6
    patience = 2.0


@pytest.fixture
async def rig(redis_process: RedisServer) -> AsyncIterator[RedisRig]:
    async with open_proxy(redis_process.port) as proxy:
        yield ImpatientRig(redis_process, proxy)


WHOLE = [
    (C.test_the_adapter_reports_every_lease_that_it_finds_gone_and_no_other, ()),
    (C.test_what_is_held_for_many_leases_stays_with_its_holder, ()),
    (C.test_what_is_held_when_its_session_ends_can_be_settled_on_the_next_or_comes_again, ("closed",)),
    (C.test_a_settlement_that_is_sent_twice_counts_once, (Reject("bad"),)),
    (C.test_a_publish_that_a_fault_interrupts_is_stored_once_or_said_to_be_doubtful, ()),
    (C.test_what_the_broker_hands_to_a_read_that_is_gone_by_then_comes_again, ()),
]


@pytest.mark.parametrize(("claim", "arguments"), WHOLE)
async def test_what_is_broken_below_is_whole(claim: Claim, arguments: tuple[object, ...], rig: RedisRig) -> None:
    await claim(C(), rig, *arguments)


async def test_a_lost_lease_that_is_not_reported_is_caught(rig: RedisRig, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReportsOnlyOne(StreamReceiver):
        async def _renew(self) -> None:
            on_lost = self._on_lost
            self._on_lost = lambda delivery: on_lost(delivery) if delivery.message.body == b"1" else None
            try:
                await super()._renew()
            finally:
                self._on_lost = on_lost

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", ReportsOnlyOne)
    await fails(C.test_the_adapter_reports_every_lease_that_it_finds_gone_and_no_other, rig)


async def test_a_lease_that_is_reported_lost_and_is_not_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReportsAll(StreamReceiver):
        async def _renew(self) -> None:
            for delivery in self._held.values():
                self._on_lost(delivery)

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", ReportsAll)
    await fails(C.test_what_is_held_for_many_leases_stays_with_its_holder, rig)


async def test_a_lease_that_is_not_renewed_is_caught(rig: RedisRig, monkeypatch: pytest.MonkeyPatch) -> None:
    class RenewsNothing(StreamReceiver):
        async def _renew(self) -> None: ...

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", RenewsNothing)
    await fails(C.test_what_is_held_for_many_leases_stays_with_its_holder, rig)


async def test_a_held_message_that_comes_again_after_a_reconnect_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ForgetsWhatIsHeld(StreamReceiver):
        async def open(self) -> None:
            self._held = {}
            await super().open()

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", ForgetsWhatIsHeld)
    await fails(C.test_what_is_held_when_its_session_ends_can_be_settled_on_the_next_or_comes_again, rig, "closed")


async def test_an_adapter_that_acknowledges_what_is_held_when_it_is_cancelled_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Acknowledges(StreamReceiver):
        async def close(self) -> None:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 0.4):
                if self._held:
                    ids: list[bytes] = list(self._held)  # type: ignore[arg-type]
                    await self._commands.call([["XACK", self._source.name, self._group, *ids]])
            await super().close()

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", Acknowledges)
    await fails(C.test_what_is_held_when_its_session_ends_can_be_settled_on_the_next_or_comes_again, rig, "cancelled")


async def test_a_rejection_that_is_not_safe_to_repeat_is_caught(rig: RedisRig, monkeypatch: pytest.MonkeyPatch) -> None:
    careless = "redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) return redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))"
    monkeypatch.setattr(adapters.redis.session, "REJECT", careless)
    await fails(C.test_a_settlement_that_is_sent_twice_counts_once, rig, Reject("bad"))


async def test_a_confirm_that_does_not_wait_for_the_broker_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = RedisSession.publish

    async def publish_and_forget(session: RedisSession, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        async def send() -> None:
            try:
                await publish(session, batch)
            except SessionLost:
                pass

        trio.lowlevel.spawn_system_task(send)
        await trio.lowlevel.checkpoint()
        return [None] * len(batch)

    monkeypatch.setattr(RedisSession, "publish", publish_and_forget)
    await fails(C.test_a_publish_that_a_fault_interrupts_is_stored_once_or_said_to_be_doubtful, rig)


async def test_a_publish_that_was_sent_and_is_called_unsent_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Connection.call

    async def lie(connection: Connection, commands: Sequence[list[str | int | float | bytes]]) -> list[object]:
        try:
            return await call(connection, commands)
        except SessionLost as loss:
            raise SessionLost(str(loss), sent=False) from None

    monkeypatch.setattr(Connection, "call", lie)
    await fails(C.test_a_publish_that_a_fault_interrupts_is_stored_once_or_said_to_be_doubtful, rig)


async def test_what_arrives_for_a_read_that_was_cut_off_and_is_not_given_back_is_caught(
    rig: RedisRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KeepsStrays(StreamReceiver):
        def _park_strays(self) -> list[str | int | float | bytes]:
            return ["PING"]

    monkeypatch.setattr(adapters.redis.session, "StreamReceiver", KeepsStrays)
    monkeypatch.setattr(ImpatientRig, "lease", 30.0)
    await fails(C.test_what_the_broker_hands_to_a_read_that_is_gone_by_then_comes_again, rig)
