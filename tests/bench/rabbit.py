"""A RabbitMQ that a test starts on free ports in a temporary folder: no service, no name, no file is shared.

    with rabbit_server(folder) as server:
        await server.start()                        # about 3 s
        server.url                                  # amqp://guest:guest@127.0.0.1:PORT/
        await server.ctl("close_all_connections", "because")

A test that leaves the server alone takes a virtual host of one that is there already: see `Vhost`.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pika
import trio
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from .process import STOP_LIMIT, ServerProcess, free_port

# It has a warning for each answer that is a no, and a no is what some tests wait for.
logging.getLogger("pika").setLevel(logging.CRITICAL)

#: Debian's `rabbitmq-server` on PATH is a wrapper that wants to be root or its own user; behind it are these.
DEBIAN: Final = Path("/usr/lib/rabbitmq/bin")

CONFIG: Final = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = false
disk_free_limit.absolute = 1MB
default_vhost = /
"""


def scripts() -> Path | None:
    """The folder of RabbitMQ's own scripts; None when it is not installed."""
    if (DEBIAN / "rabbitmq-server").exists():
        return DEBIAN
    found = shutil.which("rabbitmq-server")
    return None if found is None else Path(found).resolve().parent


class Vhost:
    """A virtual host of a server, and how another program sees it: pika, which knows nothing of us."""

    def __init__(self, server: RabbitServer, name: str) -> None:
        self.server = server
        self.name = name
        self.url = f"amqp://guest:guest@127.0.0.1:{server.port}/{name.removeprefix('/')}"

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        credentials = pika.PlainCredentials("guest", "guest")
        where = pika.ConnectionParameters("127.0.0.1", self.server.port, self.name, credentials, socket_timeout=5)
        with closing(pika.BlockingConnection(where)) as connection:
            yield connection.channel()

    def add(self, queue: str, *bodies: bytes) -> None:
        """Add persistent messages to a durable queue as another program would, all in the same moment."""
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True)
            channel.tx_select()
            for body in bodies:
                channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
            channel.tx_commit()

    def add_numbers(self, queue: str, count: int) -> None:
        """Add 0 … `count` - 1."""
        self.add(queue, *(str(number).encode() for number in range(count)))

    def ready(self, queue: str) -> int:
        """How many messages wait in `queue` that no consumer holds; none if there is no such queue."""
        return self._count(queue, "message_count")

    def consumers(self, queue: str) -> int:
        return self._count(queue, "consumer_count")

    def _count(self, queue: str, what: str) -> int:
        with self.channel() as channel:
            try:
                return int(getattr(channel.queue_declare(queue, passive=True).method, what))
            except ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                return 0

    def take(self, queue: str) -> list[bytes]:
        """Take out all that waits in `queue`, in order."""
        bodies = []
        with self.channel() as channel:
            while (answer := channel.basic_get(queue, auto_ack=True))[0] is not None:
                bodies.append(answer[2])
        return bodies

    async def unacked(self, queue: str) -> int:
        """How many messages of `queue` consumers hold and have not settled."""
        rows = await self.server.ctl("list_queues", "-q", "-p", self.name, "name", "messages_unacknowledged")
        return next(int(count) for name, count in map(str.split, rows.splitlines()) if name == queue)


class RabbitServer(ServerProcess):
    """One RabbitMQ node, and the name server (epmd) of its own that Erlang wants. Its data outlives a kill."""

    def __init__(self, folder: Path, *config: str) -> None:
        super().__init__(folder)
        found = scripts()
        assert found, "rabbitmq-server is missing: ./scripts/test installs it"
        self._scripts = found
        self._names: subprocess.Popen[bytes] | None = None
        self._names_port = free_port()
        self._new_vhosts = map("test-{}".format, itertools.count())
        self.vhost = Vhost(self, "/")
        self.url = self.vhost.url
        (folder / "rabbitmq.conf").write_text(CONFIG.format(port=self.port) + "\n".join(config) + "\n")
        (folder / "enabled_plugins").write_text("[].\n")
        self._environment = {
            **os.environ,
            "HOME": str(folder),  # the cookie by which rabbitmqctl is let in
            "ERL_EPMD_PORT": str(self._names_port),
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            # An idle scheduler of Erlang's spins by default, which a machine of two cores feels.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
            # The script becomes the server, so that its process id is the server's.
            "RABBITMQ_ALLOW_INPUT": "true",
        }

    def launch(self) -> None:
        names = ["epmd", "-port", str(self._names_port), "-address", "127.0.0.1"]
        self._names = self._launch(names, self._environment)
        self._process = self._launch([str(self._scripts / "rabbitmq-server"), "-noinput"], self._environment)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as attempt:
                attempt.sendall(b"AMQP\x00\x00\x09\x01")
                return attempt.recv(1) == b"\x01"  # a method frame: connection.start
        except OSError:
            return False

    async def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints. It takes about 0.3 s, and fails within 10 s when the server is frozen."""
        command = [str(self._scripts / "rabbitmqctl"), "--timeout", "10", *arguments]
        done = await trio.run_process(
            command, env=self._environment, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stdout + done.stderr)
        return done.stdout.decode()

    async def new_vhost(self) -> Vhost:
        """An empty one, with all rights in it for the user guest."""
        name = next(self._new_vhosts)
        # One start of rabbitmqctl instead of two.
        add = f'rabbit_vhost:add(<<"{name}">>, <<"test">>)'
        allow = f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {", ".join(3 * [ANY])}, <<"test">>)'
        await self.ctl("eval", f"{add}, {allow}.")
        return Vhost(self, name)

    def _end(self, number: signal.Signals) -> None:
        super()._end(number)
        if self._names is not None:
            self._names.kill()
            self._names.wait(STOP_LIMIT)
            self._names = None


ANY: Final = '<<".*">>'


@contextmanager
def rabbit_server(folder: Path, *config: str) -> Iterator[RabbitServer]:
    """A server that is not started yet, and is gone when the block ends; `config` are lines of its rabbitmq.conf."""
    server = RabbitServer(folder, *config)
    try:
        yield server
    finally:
        server.kill()
