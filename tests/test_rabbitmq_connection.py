"""Connections to a real RabbitMQ: TLS, the nodes of a cluster, heartbeats, and a server that takes no messages."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme

from adapters.rabbitmq import Queue, RabbitBroker
from runtime import LinkState, Message, OutcomeUnknown, Runtime
from runtime.adapter import Outgoing, Settlement
from runtime.delivery import ACK, Reject
from runtime.dial import Dialer
from runtime.errors import SessionLost

from .bench.process import free_port
from .bench.proxy import open_proxy
from .bench.rabbit import RabbitServer, Vhost, rabbit_server
from .bench.waiting import until

pytestmark = pytest.mark.broker("rabbitmq")


async def test_amqps_checks_the_servers_certificate_and_shows_the_clients(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    files = {"cacertfile": "ca.pem", "certfile": "cert.pem", "keyfile": "key.pem"}
    config = [f"ssl_options.{option} = {tmp_path / name}" for option, name in files.items()]
    config += ["ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true"]
    with rabbit_server(tmp_path, f"listeners.ssl.1 = 127.0.0.1:{port}", *config) as server:
        await server.start()
        known = ssl.create_default_context()
        authority.configure_trust(known)
        authority.issue_cert("client@example.org").configure_cert(known)
        broker = RabbitBroker(f"amqps://localhost:{port}", tls=known)
        arrived = trio.Event()

        @broker.subscriber("orders")
        async def handle(body: bytes) -> None:
            arrived.set()

        async with Runtime(broker).open():
            with trio.fail_after(10):
                await broker.publish(b"x" * 1_000_000, "orders")
                await arrived.wait()

        unknown = ssl.create_default_context()
        authority.configure_trust(unknown)
        for tls, says in ((unknown, "certificate"), (None, "certificate")):
            app = Runtime(RabbitBroker(f"amqps://localhost:{port}", tls=tls))
            async with app.open():
                await until(lambda app=app, says=says: says in str(app.status().broker("amqps").error).lower())  # type: ignore[misc]


async def test_the_nodes_of_a_cluster_are_tried_in_turn(rabbit: Vhost) -> None:
    absent = RabbitBroker("amqp://localhost:1/" + rabbit.name, nodes=[f"127.0.0.1:{rabbit.server.port}"])
    async with Runtime(absent).open():
        with trio.fail_after(5):
            await absent.publish(1, "orders")
    # One that takes the connection and then says nothing gets its share of the time, and not all of it.
    async with open_proxy(rabbit.server.port) as proxy:
        proxy.swallow()
        nodes = [f"127.0.0.1:{rabbit.server.port}"]
        silent = RabbitBroker(f"amqp://127.0.0.1:{proxy.port}/{rabbit.name}", nodes=nodes, connect_limit=1.0)
        async with Runtime(silent).open():
            with trio.fail_after(5):
                await silent.publish(2, "orders")
    assert rabbit.take("orders") == [b"1", b"2"]


async def test_heartbeats_keep_an_idle_connection_and_find_a_dead_one(rabbit: Vhost) -> None:
    async with open_proxy(rabbit.server.port) as proxy:
        url = rabbit.url.replace(str(rabbit.server.port), str(proxy.port))
        # No probe helps: it comes too late.
        broker = RabbitBroker(url, heartbeat=1, probe_interval=60)
        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().ready)
            await trio.sleep(3.5)  # the server hangs up on who was silent for two heartbeats
            assert app.status().broker("amqp").sessions == 1
            proxy.swallow(up=False)
            await until(lambda: app.status().broker("amqp").state is not LinkState.CONNECTED, within=4)
            assert "no byte for 2 s" in str(app.status().broker("amqp").error)


async def test_an_ack_that_did_not_arrive_is_not_said_to_have_been_taken(rabbit: Vhost) -> None:
    rabbit.add_numbers("orders", 1)
    async with open_proxy(rabbit.server.port) as proxy:
        url = rabbit.url.replace(str(rabbit.server.port), str(proxy.port))
        async with RabbitBroker(url).open_session("test", Dialer()) as session:
            orders = session.open_source(Queue("orders"), {}, lambda delivery: None, again=False, prefetch=1)
            async with orders as receiver:
                [delivery] = await receiver.receive(1)
                proxy.delay(0.3)
                began = trio.current_time()
                assert await session.settle([Settlement(delivery, ACK)]) == [None]
                assert trio.current_time() - began >= 0.6  # there and back
                proxy.delay(0)


async def test_a_session_that_an_operator_ends_says_why_and_another_follows(rabbit: Vhost) -> None:
    app = Runtime(RabbitBroker(rabbit.url))
    async with app.open():
        await until(lambda: app.status().ready)
        await rabbit.server.ctl("close_all_connections", "-p", rabbit.name, "maintenance at noon")
        await until(lambda: "maintenance at noon" in str(app.status().broker("amqp").error))
        await until(lambda: app.status().broker("amqp").sessions == 2)


async def test_a_server_short_of_memory_is_waited_for_within_limits_and_costs_no_session(
    rabbit_process: RabbitServer,
) -> None:
    orders, incoming = Queue("orders"), Queue("incoming")
    rabbit_process.vhost.add_numbers("incoming", 2)
    broker = RabbitBroker(rabbit_process.url, publish_limit=2.0)
    async with broker.open_session("test", Dialer()) as session:
        async with session.open_source(incoming, {}, lambda delivery: None, again=False, prefetch=2) as receiver:
            received = list(await receiver.receive(2))
            while len(received) < 2:
                received += await receiver.receive(1)
            await session.publish([_outgoing(orders, "before")])
            await rabbit_process.ctl("set_vm_memory_high_watermark", "0.00001")
            # The server notices a publisher when it publishes; from then on it does not read from it.
            with trio.fail_after(10):
                results = await session.publish([_outgoing(orders, str(number)) for number in range(300)])
                while not any(isinstance(error, OutcomeUnknown) for error in results):
                    results = await session.publish([_outgoing(orders, str(number)) for number in range(300)])
            whys: list[str] = []
            with trio.move_on_after(0.2) as waiting:
                await session.writable(whys.append)
            assert waiting.cancelled_caught
            assert "RabbitMQ takes no messages for now" in whys[0]
            with trio.fail_after(5):
                await session.probe()
                refused, done = await session.settle(
                    [Settlement(received[0], Reject("poison")), Settlement(received[1], ACK)]
                )
            assert isinstance(refused, SessionLost)
            assert done is None
            await rabbit_process.ctl("set_vm_memory_high_watermark", "0.4")
            with trio.fail_after(10):
                await session.writable(whys.append)
                assert await session.publish([_outgoing(orders, "after")]) == [None]
                [again] = await receiver.receive(1)
                assert again.message.body == received[0].message.body
                assert await session.settle([Settlement(again, Reject("poison"))]) == [None]


def _outgoing(queue: Queue, id: str) -> Outgoing:
    return Outgoing(Message(body=b"", id=id, destination=queue.name), queue)


@pytest.mark.promise("P2")
@pytest.mark.parametrize("after", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032])
async def test_a_cancel_at_any_moment_of_the_start_ends_it_at_once(rabbit: Vhost, after: float) -> None:
    began = trio.current_time()
    with trio.move_on_after(after):
        async with RabbitBroker(rabbit.url).open_session("test", Dialer()) as session:
            async with session.open_source(
                Queue("orders"), {}, lambda delivery: None, again=False, prefetch=5
            ) as source:
                await source.receive(1)
    assert trio.current_time() - began < after + 1
