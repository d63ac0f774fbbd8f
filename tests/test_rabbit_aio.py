"""aio-pika's connection: all that the native one does on a real server, and its tear-down in every state."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import logging
import math
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from adapters.rabbitmq import RabbitBroker
from adapters.rabbitmq.address import Address
from runtime import ConfigurationError, Runtime
from runtime.dial import Dialer

from . import test_rabbitmq, test_rabbitmq_connection
from .bench.logs import troubles
from .bench.proxy import open_proxy
from .bench.rabbit import Vhost
from .bench.waiting import until
from .faults import frost, processes, stories
from .faults.place import Place
from .faults.rabbit_place import place

pytestmark = [
    pytest.mark.broker("rabbitmq"),
    pytest.mark.skipif(sys.version_info >= (3, 14), reason="NO AIO-PIKA: there is no trio-asyncio for this Python"),
]

#: aiormq gives up a silent server by a rule of its own; memory alarms have their fault test.
NOT_HERE = {
    "test_heartbeats_keep_an_idle_connection_and_find_a_dead_one",
    "test_a_server_short_of_memory_is_waited_for_within_limits_and_costs_no_session",
}
# The same claims, about the other connection.
for _claims in (test_rabbitmq, test_rabbitmq_connection):
    globals().update({n: v for n, v in vars(_claims).items() if n.startswith("test_") and n not in NOT_HERE})


@pytest.fixture(autouse=True)
def on_aio_pika(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test of the native connection makes is made with this one."""
    for claims in (test_rabbitmq, test_rabbitmq_connection):
        monkeypatch.setattr(claims, "RabbitBroker", functools.partial(RabbitBroker, connection="aio-pika"))


@pytest.fixture
def here(rabbit: Vhost) -> Iterator[Place]:
    yield place(rabbit, "aio-pika")
    rabbit.server.thaw()


@pytest.mark.promise("P2")
async def test_aio_a_cancel_around_a_frozen_server_takes_less_than_a_second(here: Place) -> None:
    await frost.cancel_around_a_frozen_broker(here)


@pytest.mark.promise("P2")
async def test_aio_a_cancel_with_the_sockets_full_takes_less_than_a_second(here: Place) -> None:
    """aiormq's own writer would drain into the frozen server for three heartbeats."""
    broker = here.broker()
    app = Runtime(broker)
    async with trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(1, "orders")
        here.server.freeze()
        for _ in range(50):
            nursery.start_soon(broker.publish, b"x" * 1_000_000, "orders")
        await trio.sleep(0.3)
        assert app.status().broker("amqp").publishing == 50
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1


@pytest.mark.promise("P2")
@pytest.mark.parametrize("how", ["refused", "black-holed connect", "black-holed handshake", "black-holed TLS"])
async def test_aio_a_cancel_while_connecting_takes_less_than_a_second(here: Place, how: str) -> None:
    async with open_proxy(here.server.port) as proxy:
        if how == "refused":
            proxy.refuse()
        elif how == "black-holed connect":
            proxy.ignore()
        else:
            proxy.swallow()
        url = here.url(proxy.port)
        if how == "black-holed TLS":
            url, tls = url.replace("amqp", "amqps", 1), ssl.create_default_context()
        else:
            tls = None
        broker = RabbitBroker(url, name="amqp", connection="aio-pika", tls=tls)
        app = Runtime(broker)
        async with trio.open_nursery() as nursery:
            await nursery.start(app.serve)
            nursery.start_soon(broker.publish, 1, "orders")
            if how == "refused":
                await until(lambda: app.status().broker("amqp").attempts >= 2)
            elif how == "black-holed connect":
                await until(lambda: proxy.knocking)
            else:
                await until(lambda: proxy.swallowed_up)
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 1


@pytest.mark.promise("P2")
@pytest.mark.parametrize("moment", ["black-holed handshake", "slow DNS", "black-holed session"])
async def test_aio_sigterm_ends_the_process(rabbit: Vhost, here: Place, tmp_path: Path, moment: str) -> None:
    await processes.sigterm_in(moment, here, tmp_path, lambda: rabbit.consumers("orders"))


@pytest.mark.promise("P5", "P6")
async def test_aio_a_reset_in_the_middle_of_a_frame(here: Place, caplog: pytest.LogCaptureFixture) -> None:
    await stories.reset_in_mid_frame(here)
    loud = {record.name for record in caplog.records if record.levelno >= logging.WARNING}
    assert loud == {"runtime.supervisor"}, "its line, and none of aiormq's"
    assert "Traceback" not in caplog.text


@pytest.mark.promise("P2")
async def test_aio_a_task_of_asyncio_that_swallows_cancels_does_not_hold_up_the_end(rabbit: Vhost) -> None:
    """trio-asyncio cancels each task once and then waits without limit."""
    from adapters.rabbitmq.aio import AioConnection, open_aio_connection

    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1

    address = Address("127.0.0.1", rabbit.server.port, rabbit.name, "guest", "guest", None)
    with trio.fail_after(5):
        async with open_aio_connection(address, Dialer(), "stubborn", heartbeat=5, deadline=math.inf) as connection:
            assert isinstance(connection, AioConnection)
            nurseless = connection._loop.create_task(stubborn(), context=connection._context)
            await trio.sleep(0.05)
            began = trio.current_time()
    assert trio.current_time() - began < 1
    assert nurseless.done()
    assert swallowed == 3


@pytest.mark.promise("P8")
async def test_aio_a_missing_virtual_host_and_wrong_credentials_are_refusals(
    rabbit: Vhost, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = RabbitBroker(rabbit.url.replace("guest@", "wrong@"), name="wrong", connection="aio-pika")
    missing = RabbitBroker(rabbit.url + "-missing", name="missing", connection="aio-pika")
    app = Runtime(wrong, missing)
    async with app.open():
        await until(lambda: "ACCESS_REFUSED" in str(app.status().broker("wrong").error))
        await until(lambda: "vhost" in str(app.status().broker("missing").error))
        await trio.sleep(2.1)
        assert app.status().broker("wrong").attempts <= 4
        assert app.status().broker("missing").attempts <= 4
    assert len(troubles(caplog, "")) == 2, "one line for each"


def test_asyncio_is_imported_only_for_those_who_choose_it() -> None:
    program = (
        "import sys; from adapters.rabbitmq import RabbitBroker; RabbitBroker('amqp://localhost');"
        "RabbitBroker('amqp://localhost', connection='aio-pika');"
        "assert not {'aiormq', 'trio_asyncio', 'asyncio'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("package", ["aiormq", "trio_asyncio"])
def test_a_missing_extra_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ModuleNotFoundError, match=rf"needs {package}, .*pip install 'trio-runtime\[rabbitmq-aio\]'"):
        RabbitBroker("amqp://localhost", connection="aio-pika")


def test_a_python_without_trio_asyncio_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(ConfigurationError, match=r"ends with Python 3\.13"):
        RabbitBroker("amqp://localhost", connection="aio-pika")
