"""What a Redis says when it is not well: for each a clear state, one log line, no hot loop, and recovery by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import redis
import trio
import trio.lowlevel

from adapters.redis import RedisBroker, Stream
from runtime import BrokerUnavailable, LinkState, Runtime, SubscriptionState

from ..bench.logs import troubles
from ..bench.recorder import Recorder
from ..bench.servers import RedisServer, redis_server
from ..bench.table import FaultTable
from ..bench.waiting import until

pytestmark = pytest.mark.broker


@pytest.mark.promise("P8")
@pytest.mark.parametrize("start", ["beginning", "end"])
async def test_flushall_takes_the_group_away_and_it_is_made_again_without_losing_what_comes_after(
    redis_process: RedisServer, caplog: pytest.LogCaptureFixture, start: str
) -> None:
    broker = RedisBroker(redis_process.url)
    handled: list[int] = []

    @broker.subscriber(Stream("orders", start="end" if start == "end" else "beginning"))
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    with redis_process.client() as client:
        async with app.open():
            await until(lambda: app.status().ready)
            await broker.publish(1, "orders")
            await until(lambda: handled == [1])
            client.flushall()
            assert client.exists("orders") == 0
            # Before the group is there again: nothing of it may be skipped, wherever the group once started.
            await broker.publish(2, "orders")
            await until(lambda: handled == [1, 2])
            await until(lambda: app.status().ready)
            assert app.status().broker("redis").sessions == 1
    assert len(troubles(caplog, "orders")) == 1


@pytest.mark.promise("P8")
async def test_a_group_that_someone_destroyed_is_made_again(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled: list[int] = []

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    with redis_process.client() as client:
        async with app.open():
            await until(lambda: app.status().ready)
            client.xgroup_destroy("orders", "default")
            await until(lambda: app.status().broker("redis").subscriptions[0].state is SubscriptionState.FAILING)
            await broker.publish(1, "orders")
            await until(lambda: handled == [1])


@pytest.mark.promise("P8")
async def test_a_server_out_of_memory_refuses_publishes_with_a_state_and_handlers_wait(
    redis_process: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RedisBroker(redis_process.url)
    attempts: list[int] = []

    @broker.subscriber("orders")
    @broker.publisher("invoices")
    async def bill(number: int) -> int:
        attempts.append(number)
        return number

    app = Runtime(broker)
    with redis_process.client() as client:
        async with app.open():
            await until(lambda: app.status().ready)
            await broker.publish(1, "orders")
            await until(lambda: client.xlen("invoices") == 1)
            client.xadd("orders", {"body": "2"})
            client.config_set("maxmemory", 1)
            for _ in range(3):
                with pytest.raises(BrokerUnavailable, match="OOM"):
                    await broker.publish(3, "orders")
            assert "OOM" in str(app.status().broker("redis").publish_error)
            client.config_set("maxmemory", 0)
            await until(lambda: client.xlen("invoices") == 2)
            await broker.publish(4, "orders")
            assert app.status().broker("redis").publish_error is None
            await until(lambda: client.xlen("invoices") == 3)
            assert client.xlen("orders.rejected") == 0
    assert len(troubles(caplog, "publishes are refused")) == 1


@pytest.mark.promise("P8")
async def test_a_demoted_master_is_not_used_and_found_again_when_it_is_promoted(
    redis_process: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RedisBroker(redis_process.url, publish_limit=1)
    handled: list[int] = []

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    (tmp_path / "other").mkdir()
    with redis_server(tmp_path / "other") as other, redis_process.client() as client:
        await other.start()
        async with app.open():
            await until(lambda: app.status().ready)
            client.replicaof("127.0.0.1", other.port)
            with pytest.raises(BrokerUnavailable):
                await broker.publish(1, "orders")
            await until(lambda: "read-only slave" in str(app.status().broker("redis").error))
            attempts = app.status().broker("redis").attempts
            await trio.sleep(2.1)
            assert app.status().broker("redis").attempts - attempts <= 3
            client.replicaof("NO", "ONE")
            await broker.publish(2, "orders")
            await until(lambda: 2 in handled)
    assert len(troubles(caplog, "read-only slave")) == 1


@pytest.mark.promise("P8")
async def test_one_connection_too_many_is_said_and_tried_again(
    redis_process: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_process.client() as client:
        client.ping()
        client.config_set("maxclients", 1)
        app = Runtime(RedisBroker(redis_process.url))
        async with app.open():
            await until(lambda: "max number of clients" in str(app.status().broker("redis").error))
            await trio.sleep(2)
            assert app.status().broker("redis").attempts <= 8
            client.config_set("maxclients", 100)
            await until(lambda: app.status().ready)
    assert len(troubles(caplog, "max number of clients")) == 1


@pytest.mark.promise("P8")
async def test_a_connection_too_many_for_the_poll_alone_does_not_flood_the_log(
    redis_process: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with redis_process.client() as client:
        client.ping()
        client.config_set("maxclients", 2)  # redis-py's and the command connection
        broker = RedisBroker(redis_process.url)

        @broker.subscriber("orders")
        async def handle(number: int) -> None: ...

        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().broker("redis").sessions >= 4)
            assert len(troubles(caplog, "max number of clients")) == 1
            assert sum("connected" in record.getMessage() for record in caplog.records) <= 2
            client.config_set("maxclients", 100)
            await until(lambda: app.status().ready)


@pytest.mark.promise("P8")
async def test_a_server_that_is_loading_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("--enable-debug-command", "yes", "--key-load-delay", "500", "--loading-process-events-interval-bytes")
    with redis_server(tmp_path, *options, "1024") as server:
        await server.start()
        with server.client() as client:
            client.config_set("key-load-delay", 0)
            pipeline = client.pipeline()
            for number in range(10_000):
                pipeline.set(f"key:{number}", "x" * 100)
            pipeline.execute()
            client.bgrewriteaof()
            await until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        server.kill()
        server.launch()  # and do not wait until it answers
        broker = RedisBroker(server.url)
        app = Runtime(broker)
        async with app.open():
            await until(lambda: "LOADING" in str(app.status().broker("redis").error))
            assert not app.status().ready
            await broker.publish(1, "orders")
            assert app.status().broker("redis").state is LinkState.CONNECTED
    assert len(troubles(caplog, "LOADING")) == 1


@pytest.mark.promise("P8")
async def test_credentials_revoked_while_running_are_tried_at_most_once_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault_table: FaultTable
) -> None:
    with Recorder(9, "credentials revoked", broker="redis") as recorder:
        await revoke_credentials(tmp_path, recorder)
        fault_table.add(recorder.check(recovery_within=5))
    assert len(troubles(caplog, "WRONGPASS")) == 1


async def revoke_credentials(tmp_path: Path, recorder: Recorder) -> None:
    with redis_server(tmp_path, "--user", "app", "on", ">secret", "~*", "&*", "+@all") as server:
        await server.start()
        broker = RedisBroker(server.url.replace("//", "//app:secret@"))
        arrived = trio.Event()

        @broker.subscriber("orders")
        async def handle(number: int) -> None:
            recorder.handled(number)
            arrived.set()

        app = Runtime(broker)
        with server.client() as client:
            async with app.open():
                await until(lambda: app.status().ready)
                client.acl_deluser("app")  # which also closes its connections
                await until(lambda: "WRONGPASS" in str(app.status().broker("redis").error))
                attempts = app.status().broker("redis").attempts
                await trio.sleep(3)
                assert 1 <= app.status().broker("redis").attempts - attempts <= 3
                recorder.fault("not ready", proof=not app.status().ready)
                client.acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
                recorder.mark_fault(unsettled=0)
                await broker.publish(1, "orders")
                recorder.confirmed(1)
                with trio.fail_after(5):
                    await arrived.wait()


async def test_a_unix_socket_is_as_good_as_a_port(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "redis.sock")) as server:
        await server.start()
        broker = RedisBroker(f"unix://{tmp_path}/redis.sock?db=3")
        async with Runtime(broker).open():
            with trio.fail_after(5):
                await broker.publish(1, "orders")
        with redis.Redis(port=server.port, db=3) as client:
            assert client.xlen("orders") == 1


async def test_publishing_trims_by_age(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    with redis_process.client() as client:
        for number in range(500):
            client.xadd("orders", {"body": str(number)}, id=f"1000-{number + 1}")
        async with Runtime(broker).open():
            await broker.publish(1, Stream("orders", maxage=3600))
        assert client.xlen("orders") < 200  # Redis trims whole nodes


async def test_the_status_says_how_far_behind_a_group_is(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    release = trio.Event()

    @broker.subscriber(Stream("orders", lease=0.4), concurrency=1, prefetch=1)
    async def handle(number: int) -> None:
        await release.wait()

    app = Runtime(broker)
    async with app.open():
        for number in range(8):
            await broker.publish(number, "orders")
        await until(lambda: app.status().broker("redis").subscriptions[0].lag == 7)
        release.set()
        await until(lambda: app.status().broker("redis").subscriptions[0].lag == 0)


async def test_consumers_long_gone_are_removed_once_their_work_is_taken_over(redis_process: RedisServer) -> None:
    with redis_process.client() as client:
        client.xgroup_create("orders", "default", mkstream=True)
        client.xadd("orders", {"body": "1"})
        client.xreadgroup("default", "dead-with-work", {"orders": ">"})
        client.xgroup_createconsumer("orders", "default", "dead")
        broker = RedisBroker(redis_process.url)

        @broker.subscriber(Stream("orders", lease=0.3, poll=0.1))
        async def handle(number: int) -> None:
            await trio.lowlevel.checkpoint()

        def names() -> set[bytes]:
            return {consumer["name"] for consumer in client.xinfo_consumers("orders", "default")}

        async with Runtime(broker).open():
            await until(lambda: client.xpending("orders", "default")["pending"] == 0)
            assert b"dead" in names()
            await until(lambda: not names() & {b"dead", b"dead-with-work"})
            assert len(names()) == 1, "the living one stays"
