"""Connections to a real Redis: lost, found again, refused, encrypted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from adapters.redis import RedisBroker, Stream
from runtime import LinkState, Rejected, Runtime, SubscriptionState

from ..bench.process import free_port
from ..bench.servers import RedisServer, redis_server
from ..bench.waiting import until

pytestmark = pytest.mark.broker


@pytest.mark.promise("P5", "P6")
async def test_a_restarted_server_is_found_again_and_nothing_confirmed_is_lost(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled: set[int] = set()

    @broker.subscriber("orders", concurrency=50)
    async def handle(number: int) -> None:
        handled.add(number)

    app = Runtime(broker)
    async with app.open():
        await broker.publish(0, "orders")
        redis_process.kill()
        await until(lambda: app.status().broker("redis").state is not LinkState.CONNECTED, within=2)
        async with trio.open_nursery() as nursery:
            for number in range(1, 50):
                nursery.start_soon(broker.publish, number, "orders")  # they wait
            await redis_process.start()
        await until(lambda: handled == set(range(50)))
        assert app.status().broker("redis").sessions == 2


async def test_user_password_and_database_are_used(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--user", "app", "on", ">s3cret:/", "~*", "&*", "+@all") as server:
        await server.start()
        address = server.url.removeprefix("redis://")
        broker = RedisBroker(f"redis://app:s3cret%3A%2F@{address}/5")
        async with Runtime(broker).open() as run:
            await broker.publish(1, "orders")
            assert "s3cret" not in str(run.status())
        with server.client() as client:
            client.select(5)
            assert client.xlen("orders") == 1


@pytest.mark.promise("P8")
async def test_refused_credentials_are_tried_at_most_once_a_second_with_one_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path, "--requirepass", "right") as server:
        await server.start()
        broker = RedisBroker(server.url.replace("//", "//:wrong@"))
        app = Runtime(broker)
        async with app.open():
            await trio.sleep(3.2)
            status = app.status().broker("redis")
            assert "WRONGPASS" in str(status.error)
            assert 2 <= status.attempts <= 4
            assert not status.ready
        lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert len(lines) == 1
        assert "WRONGPASS" in lines[0]


async def test_rediss_checks_the_servers_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    files = ("--tls-key-file", "key.pem", "--tls-cert-file", "cert.pem", "--tls-ca-cert-file", "ca.pem")
    with redis_server(tmp_path, "--tls-port", str(port), *files, "--tls-auth-clients", "no") as server:
        await server.start()
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        broker = RedisBroker(f"rediss://localhost:{port}", tls=trusting)
        arrived = trio.Event()

        @broker.subscriber("orders")
        async def handle(number: int) -> None:
            arrived.set()

        async with Runtime(broker).open():
            with trio.fail_after(5):
                await broker.publish(1, "orders")
                await arrived.wait()

        app = Runtime(RedisBroker(f"rediss://localhost:{port}"))  # the system's authorities do not know ours
        async with app.open():
            await until(lambda: "certificate" in str(app.status().broker("rediss").error).lower())


@pytest.mark.promise("P1")
async def test_a_key_of_the_wrong_type_is_no_news_to_the_other_subscriptions(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled: list[int] = []

    @broker.subscriber("good")
    async def good(number: int) -> None:
        handled.append(number)

    @broker.subscriber("bad")
    async def bad(number: int) -> None: ...

    with redis_process.client() as client:
        client.set("bad", "a string")
        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().broker("redis").subscriptions[1].state is SubscriptionState.FAILING)
            failing = app.status().broker("redis").subscriptions[1]
            assert "WRONGTYPE" in str(failing.error)
            await broker.publish(1, "good")
            await until(lambda: handled == [1])
            with pytest.raises(Rejected, match="WRONGTYPE"):
                await broker.publish(2, "bad")
            assert app.status().broker("redis").sessions == 1
            client.delete("bad")
            await until(lambda: app.status().ready, within=3)


async def test_publishing_trims_to_maxlen(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    async with Runtime(broker).open(), trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(broker.publish, number, Stream("orders", maxlen=100))
    with redis_process.client() as client:
        assert 100 <= client.xlen("orders") <= 300  # Redis trims whole nodes


async def test_acks_and_publishes_cross_in_batches(redis_process: RedisServer) -> None:
    broker = RedisBroker(redis_process.url)
    handled = 0

    @broker.subscriber("orders", concurrency=100)
    async def handle(number: int) -> None:
        nonlocal handled
        handled += 1

    app = Runtime(broker)
    with redis_process.client() as client:
        async with app.open():
            await until(lambda: app.status().ready)
            before = client.info("stats")["total_reads_processed"]
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(broker.publish, number, "orders")
            await until(lambda: app.status().broker("redis").subscriptions[0].acked == 1000)
            reads = client.info("stats")["total_reads_processed"] - before
    # Publish, read and ack each on its own would be three requests for each of 1,000 messages.
    assert reads < 300
