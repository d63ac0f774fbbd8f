"""What a RabbitMQ says when it is not well: for each a clear state, one log line, no hot loop, and recovery by itself."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from adapters.rabbitmq import Queue, RabbitBroker, frames
from adapters.rabbitmq.receiver import Taken
from runtime import Message, Runtime, SubscriptionState

from ..bench.logs import troubles
from ..bench.rabbit import RabbitServer, Vhost
from ..bench.recorder import Recorder
from ..bench.table import FaultTable
from ..bench.waiting import until
from ..bench.worker import worker
from .place import record_handled
from .rabbit_place import Connection, place

pytestmark = pytest.mark.broker("rabbitmq")


@pytest.mark.promise("P8")
async def test_9_credentials_revoked_while_running_are_tried_at_most_once_a_second(
    rabbit: Vhost, connection: Connection, caplog: pytest.LogCaptureFixture, fault_table: FaultTable
) -> None:
    ctl = rabbit.server.ctl
    with Recorder(9, "credentials revoked", broker=place(rabbit, connection).kind) as recorder:
        await ctl("add_user", "app", "secret")
        await ctl("set_permissions", "-p", rabbit.name, "app", ".*", ".*", ".*")
        broker = RabbitBroker(rabbit.url.replace("guest:guest", "app:secret"), connection=connection)
        handled = record_handled(broker, recorder)
        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().ready)
            await ctl("change_password", "app", "another")
            await ctl("close_all_user_connections", "app", "revoked")
            await until(lambda: "ACCESS_REFUSED" in str(app.status().broker("amqp").error))
            attempts = app.status().broker("amqp").attempts
            await trio.sleep(2.2)
            assert 1 <= app.status().broker("amqp").attempts - attempts <= 3
            recorder.fault("not ready", proof=not app.status().ready)
            await ctl("change_password", "app", "secret")
            recorder.mark_fault(unsettled=0)
            await broker.publish(1, "orders")
            recorder.confirmed(1)
            await until(lambda: handled, within=5)
        await ctl("delete_user", "app")
        fault_table.add(recorder.check(recovery_within=5))
    assert len(troubles(caplog, "ACCESS_REFUSED")) == 1
    assert "Traceback" not in caplog.text


@pytest.mark.promise("P8")
async def test_a_virtual_host_that_is_missing_is_asked_for_once_a_second_and_used_when_it_is_made(
    shared_rabbit: RabbitServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = RabbitBroker(shared_rabbit.url + "missing")
    app = Runtime(broker)
    async with app.open():
        await until(lambda: "missing" in str(app.status().broker("amqp").error))
        attempts = app.status().broker("amqp").attempts
        await trio.sleep(2.2)
        assert 1 <= app.status().broker("amqp").attempts - attempts <= 3
        assert not app.status().ready
        await shared_rabbit.ctl("add_vhost", "missing")
        await shared_rabbit.ctl("set_permissions", "-p", "missing", "guest", ".*", ".*", ".*")
        await broker.publish(1, "orders")
    await shared_rabbit.ctl("delete_vhost", "missing")
    assert len(troubles(caplog, "not found")) == 1


@pytest.mark.promise("P8")
async def test_10_a_queue_that_someone_deletes_is_made_and_consumed_again(
    rabbit: Vhost, connection: Connection, caplog: pytest.LogCaptureFixture, fault_table: FaultTable
) -> None:
    with Recorder(10, "queue deleted", broker=place(rabbit, connection).kind) as recorder:
        broker = RabbitBroker(rabbit.url, connection=connection)
        handled = record_handled(broker, recorder)
        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().ready)
            with rabbit.channel() as channel:
                channel.queue_delete("orders")
            recorder.mark_fault(unsettled=0)
            await until(lambda: rabbit.consumers("orders") == 1, within=10)
            recorder.fault("the server cancelled the consumer", proof=troubles(caplog, "orders"))
            await broker.publish(1, "orders")
            recorder.confirmed(1)
            await until(lambda: handled == [1])
            assert app.status().broker("amqp").sessions == 1, "the connection is the others' too"
        fault_table.add(recorder.check(recovery_within=10))
    assert len(troubles(caplog, "orders")) == 1


@pytest.mark.promise("P1")
async def test_11_a_channel_that_the_server_closes_is_no_news_to_the_other_subscriptions(
    rabbit: Vhost, connection: Connection, fault_table: FaultTable
) -> None:
    with Recorder(11, "channel closed by the server", broker=place(rabbit, connection).kind) as recorder:
        with rabbit.channel() as channel:
            channel.queue_declare("bad", durable=True, arguments={"x-max-length": 5})
        broker = RabbitBroker(rabbit.url, connection=connection)
        handled = record_handled(broker, recorder)

        @broker.subscriber(Queue("bad", max_length=7))
        async def bad(number: int) -> None: ...

        app = Runtime(broker)
        async with app.open():
            await until(lambda: app.status().broker("amqp").subscriptions[1].state is SubscriptionState.FAILING)
            failing = app.status().broker("amqp").subscriptions[1]
            recorder.fault("the server closed a channel", proof="PRECONDITION_FAILED" in str(failing.error))
            recorder.mark_fault(unsettled=0)
            for number in range(20):
                await broker.publish(number, "orders")
                recorder.confirmed(number)
            await until(lambda: sorted(handled) == list(range(20)))
            assert app.status().broker("amqp").sessions == 1
            with rabbit.channel() as channel:
                channel.queue_delete("bad")
            await until(lambda: app.status().ready, within=5)
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P6", "P8")
async def test_11_a_bad_ack_closes_one_channel_whose_messages_come_again_and_the_other_subscription_goes_on(
    rabbit: Vhost, connection: Connection, fault_table: FaultTable
) -> None:
    with Recorder(11, "channel closed for a bad ack", broker=place(rabbit, connection).kind) as recorder:
        broker = RabbitBroker(rabbit.url, connection=connection)
        handled = record_handled(broker, recorder)
        attempts: list[int] = []
        may_end = trio.Event()

        @broker.subscriber("slow")
        async def slow(number: int, message: Message) -> None:
            attempts.append(message.attempt)
            await may_end.wait()

        async with Runtime(broker).open() as run:
            await broker.publish(0, "slow")
            await until(lambda: attempts)
            (receipt,) = run.brokers[0].subscriptions[1].dispatch.held
            assert isinstance(receipt, Taken)
            channel = receipt.receiver.channel
            channel.send(frames.ack(channel.number, 10_000))
            await until(lambda: not channel.is_open)
            recorder.fault("the server closed the channel", proof="unknown delivery tag" in str(channel.error))
            recorder.mark_fault(unsettled=0)
            for number in range(20):
                await broker.publish(number, "orders")
                recorder.confirmed(number)
            await until(lambda: sorted(handled) == list(range(20)))
            may_end.set()
            await until(lambda: len(attempts) == 2, within=5)
            assert attempts == [1, 2], "lost with its channel, and delivered again"
            assert run.status().brokers[0].sessions == 1
        assert rabbit.ready("slow") == 0
        fault_table.add(recorder.check(recovery_within=5))


@pytest.fixture
async def short_of_memory(rabbit: Vhost) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """Call it, and the server is; until the end of the test at most."""
    yield functools.partial(rabbit.server.ctl, "set_vm_memory_high_watermark", "absolute", "1")
    await rabbit.server.ctl("set_vm_memory_high_watermark", "0.4")


@pytest.mark.promise("P5", "P8")
async def test_13_while_the_server_is_short_of_memory_publishers_wait_and_consumers_go_on(
    rabbit: Vhost,
    connection: Connection,
    short_of_memory: Callable[[], Awaitable[object]],
    fault_table: FaultTable,
) -> None:
    with Recorder(13, "memory alarm", broker=place(rabbit, connection).kind) as recorder:
        rabbit.add_numbers("orders", 100)
        broker = RabbitBroker(rabbit.url, connection=connection)
        gate = trio.Event()
        handled: list[int] = []

        @broker.subscriber("orders", concurrency=1, prefetch=1)
        async def handle(number: int) -> None:
            await gate.wait()
            handled.append(number)
            recorder.handled(number)

        app = Runtime(broker)
        async with app.open(), trio.open_nursery() as nursery:
            await until(lambda: app.status().ready)
            await broker.publish(0, "elsewhere")
            await short_of_memory()
            # The server says so to a connection when it publishes.
            with trio.move_on_after(1) as patience:
                await broker.publish(1, "elsewhere")
            assert patience.cancelled_caught, "it waits, and can be cancelled"
            recorder.mark_fault(unsettled=0)
            nursery.start_soon(broker.publish, 2, "elsewhere")
            gate.set()
            await until(lambda: len(handled) == 100)
            status = app.status().broker("amqp")
            recorder.fault("a publish waits", proof=status.publishing)
            recorder.fault("and the status says why", proof="memory" in str(status.publish_error))
            assert app.status().broker("amqp").sessions == 1
            await rabbit.server.ctl("set_vm_memory_high_watermark", "0.4")
            recorder.mark_fault(unsettled=0)
            await until(lambda: not app.status().broker("amqp").publishing)
            recorder.mark_recovered()
        assert rabbit.ready("elsewhere") in (2, 3), "the cancelled one may have been sent"
        fault_table.add(recorder.check(recovery_within=5))


@pytest.mark.promise("P2")
async def test_13_32_sigterm_while_the_server_is_short_of_memory(
    rabbit: Vhost, connection: Connection, short_of_memory: Callable[[], Awaitable[object]], tmp_path: Path
) -> None:
    await short_of_memory()
    module = place(rabbit, connection).module(PUBLISHES)
    async with worker(tmp_path, module) as running:
        await running.says("publishing")
        await trio.sleep(0.3)  # it goes out, and the server blocks the connection
        running.signal()
        _, seconds = await running.ends(within=10)
        assert seconds < 1 + 2, running.output
        assert "published" not in running.output


PUBLISHES = """
import trio
from runtime import Runtime
from {module} import {name}

broker = {name}({arguments})
app = Runtime(broker, grace=1)

@broker.task
async def publish() -> None:
    print("publishing", flush=True)
    await broker.publish(1, "orders")
    print("published", flush=True)
"""
