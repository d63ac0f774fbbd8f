"""The fault list on a real Kafka under load, through the proxy: what is lost, doubled, out of order and left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from adapters.kafka import KafkaBroker, Scram
from runtime import Runtime

from ..bench.kafka.node import KafkaServer, kafka_server
from ..bench.proxy import Proxy
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.waiting import until
from . import siblings, stories
from .kafka_place import behind_a_proxy, place
from .place import record_handled, slowest_publish

pytestmark = pytest.mark.broker("kafka")


@pytest.mark.promise("P5", "P6")
async def test_1_a_broker_restarted_twice_under_load_loses_nothing(
    kafka_process: KafkaServer, fault_table: FaultTable
) -> None:
    await kafka_process.admin.create_topic("orders")
    fault_table.add(await stories.restarted_under_load(place(kafka_process)))


@pytest.mark.soak
@pytest.mark.timeout(150)
async def test_2_a_broker_down_for_a_minute_is_not_ready_within_seconds_and_loses_nothing(
    kafka_process: KafkaServer, fault_table: FaultTable
) -> None:
    await kafka_process.admin.create_topic("orders")
    # A group that lost its members waits for them as long as a session lasts, which is 45 s unless it is said.
    brief = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
    fault_table.add(await stories.down_for_a_minute(place(kafka_process, properties=brief)))


@pytest.mark.promise("P5", "P6")
async def test_4_a_reset_in_the_middle_of_a_frame(kafka_to_come: KafkaServer, fault_table: FaultTable) -> None:
    fault_table.add(await stories.reset_in_mid_frame(behind_a_proxy(kafka_to_come)))


@pytest.mark.promise("P2", "P5")
@pytest.mark.parametrize("direction", [pytest.param("upstream", marks=[pytest.mark.soak]), "downstream"])
async def test_5_6_a_black_hole_is_found_within_two_probes(
    kafka_to_come: KafkaServer, fault_table: FaultTable, direction: str
) -> None:
    # What a probe tells of is the library's view, in which a second of silence is none yet.
    fault_table.add(await stories.black_hole(behind_a_proxy(kafka_to_come), direction, probe=2))


@pytest.mark.soak
async def test_7_half_a_second_of_latency_is_no_reason_to_hang_up(
    kafka_to_come: KafkaServer, fault_table: FaultTable
) -> None:
    fault_table.add(await stories.latency(behind_a_proxy(kafka_to_come), total=300))


@pytest.mark.parametrize("flaps", [40, pytest.param(1000, marks=[pytest.mark.soak])])
@pytest.mark.timeout(400)
async def test_8_connection_flaps_leave_nothing_behind(
    kafka_to_come: KafkaServer, fault_table: FaultTable, flaps: int
) -> None:
    quick = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20}
    fault_table.add(await stories.flaps(behind_a_proxy(kafka_to_come, properties=quick), flaps))


SCRAM = {
    "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-256",
    "listener.name.clients.scram-sha-256.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
}


@pytest.mark.promise("P8")
async def test_9_credentials_revoked_while_running_are_tried_at_most_once_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault_table: FaultTable
) -> None:
    with (
        Recorder(9, "credentials revoked", broker="kafka") as recorder,
        kafka_server(tmp_path / "kafka", SCRAM, protocol="SASL_PLAINTEXT") as server,
    ):
        async with behind_a_proxy(server).open_proxy() as proxy:
            await revoke_credentials(server, proxy, recorder)
        fault_table.add(recorder.check(recovery_within=5))
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "uthentication" in r.getMessage()]
    assert len(lines) == 2, lines  # the session's end, and the first attempt to have another


async def revoke_credentials(server: KafkaServer, proxy: Proxy, recorder: Recorder) -> None:
    sha256 = ScramMechanism.SCRAM_SHA_256
    create = UserScramCredentialUpsertion("app", ScramCredentialInfo(sha256, 4096), b"secret")
    delete = UserScramCredentialDeletion("app", sha256)

    async def alter(change: UserScramCredentialAlteration) -> None:
        def call(admin: AdminClient) -> None:
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(10)

        await server.admin.ask(call)

    await alter(create)
    # Whoever is refused cannot say good-bye to its group, which waits for it as long as a session lasts: 45 s by default.
    brief = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 500}
    broker = KafkaBroker(f"kafka://{server.bootstrap}", auth=Scram("app", "secret", "SHA-256"), properties=brief)
    arrived = trio.Event()

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        recorder.handled(number)
        arrived.set()

    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        await alter(delete)
        proxy.reset()  # Kafka itself lets a connection live on
        await until(lambda: "uthentication" in str(app.status().broker("kafka").error))
        attempts, connections = app.status().broker("kafka").attempts, proxy.connections
        await trio.sleep(3)
        assert 1 <= app.status().broker("kafka").attempts - attempts <= 3
        assert proxy.connections - connections <= 3 * 3, "one for each client of a session"
        recorder.fault("not ready", proof=not app.status().ready)
        await alter(create)
        recorder.mark_fault(unsettled=0)
        await broker.publish(1, "orders")
        recorder.confirmed(1)
        with trio.fail_after(5):
            await arrived.wait()


@pytest.mark.promise("P6")
async def test_26_a_poison_message_does_no_harm_to_its_neighbours(
    kafka_process: KafkaServer, fault_table: FaultTable
) -> None:
    admin = kafka_process.admin
    await admin.create_topic("orders", 1)
    here = place(kafka_process)
    broker = here.broker()
    app = Runtime(broker)
    with here.recorder(26, "undecodable message") as recorder:
        handled = record_handled(broker, recorder)
        async with app.open():
            await until(lambda: app.status().ready)
            await admin.add("orders", b"poison")
            recorder.mark_fault(unsettled=0)
            await slowest_publish(broker, range(10), recorder)
            await until(lambda: sorted(handled) == list(range(10)))
            await until(lambda: app.status().broker("kafka").subscriptions[0].rejected == 1)
        (aside,) = await admin.records("orders.rejected")
        recorder.fault("it was set aside", proof=aside.value() == b"poison")
        assert await admin.lag("default", "orders") == 0, "and is done with"
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P1", "P2", "P4")
@pytest.mark.parametrize(
    "how", ["black-holed", *(pytest.param(h, marks=[pytest.mark.soak]) for h in ("absent", "unresolvable"))]
)
async def test_33_a_cluster_that_cannot_be_reached_holds_up_neither_the_start_nor_another_nor_the_end(
    kafka_process: KafkaServer, fault_table: FaultTable, how: str
) -> None:
    await kafka_process.admin.create_topic("orders")
    fault_table.add(await siblings.beside_an_unreachable_broker(place(kafka_process), how))


@pytest.mark.promise("P1")
@pytest.mark.parametrize("fate", ["freeze", *(pytest.param(f, marks=[pytest.mark.soak]) for f in ("kill", "close"))])
async def test_33_what_happens_to_one_broker_changes_nothing_for_another(tmp_path: Path, fate: str) -> None:
    with kafka_server(tmp_path / "a") as first, kafka_server(tmp_path / "b") as second:
        async with trio.open_nursery() as nursery:
            for server in (first, second):
                nursery.start_soon(start_with_a_topic, server)
        strikes = {"kill": lambda _: first.kill(), "freeze": lambda _: first.freeze(), "close": Runtime.stop}
        there, here = place(first), place(second)
        await siblings.neighbour_of(there.broker(name="victim"), here.broker(name="other"), strikes[fate])
        if fate == "freeze":
            first.thaw()  # the victim's good-bye waits for it
        await there.at_rest()


async def start_with_a_topic(server: KafkaServer) -> None:
    await server.start()
    await server.admin.create_topic("orders")
