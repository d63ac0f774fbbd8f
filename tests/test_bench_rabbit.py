"""The RabbitMQ of the bench: started, killed, frozen and started again, with nothing of it left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bench.rabbit import RabbitServer, Vhost
from .bench.waiting import until

pytestmark = pytest.mark.broker("rabbitmq")


def processes_of(server: RabbitServer) -> list[str]:
    """All processes that were started with the server's folder as their home, however far down."""
    home = f"HOME={server.folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if home in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().partition(b"\0")[0].decode())
        except OSError:
            pass  # it has just ended
    return found


async def test_what_a_killed_server_had_is_there_when_it_starts_again_on_the_same_port(
    rabbit_process: RabbitServer,
) -> None:
    rabbit_process.vhost.add_numbers("orders", 3)
    port = rabbit_process.port
    rabbit_process.kill()
    assert not rabbit_process.answers()
    await until(lambda: not processes_of(rabbit_process), why=lambda: processes_of(rabbit_process))
    await rabbit_process.start()
    assert rabbit_process.port == port
    assert rabbit_process.vhost.take("orders") == [b"0", b"1", b"2"]
    rabbit_process.freeze()
    assert not rabbit_process.answers()
    rabbit_process.thaw()
    assert rabbit_process.answers()


async def test_every_test_has_a_virtual_host_of_its_own(shared_rabbit: RabbitServer) -> None:
    first, second = await shared_rabbit.new_vhost(), await shared_rabbit.new_vhost()
    first.add_numbers("orders", 2)
    second.add_numbers("orders", 5)
    assert (first.ready("orders"), second.ready("orders")) == (2, 5)


async def test_another_programs_view_tells_what_waits_and_what_is_held(rabbit: Vhost) -> None:
    rabbit.add_numbers("orders", 3)
    with rabbit.channel() as channel:
        channel.basic_get("orders")
        assert (rabbit.ready("orders"), await rabbit.unacked("orders")) == (2, 1)
    await until(lambda: rabbit.ready("orders") == 3)
