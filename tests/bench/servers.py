"""Broker processes that a test starts on a free port in a temporary folder, and stops by process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One `redis-server` process. Its data outlives a kill: every write is in its append-only file first."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *self._options]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        with trio.fail_after(15):
            while not await trio.to_thread.run_sync(self._answers):
                assert self.is_running(), (self._folder / "redis.log").read_text()
                await trio.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM: an orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: sockets stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Another program: redis-py, to look at the server from outside and to publish like a foreigner."""
        return redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def add_numbers(self, stream: str, count: int) -> None:
        """Add 0 … `count` - 1 to a stream as another program would, all at once: the disk is waited for only once."""
        with self.client() as client:
            pipeline = client.pipeline()
            for number in range(count):
                pipeline.xadd(stream, {"body": str(number)})
            pipeline.execute()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self.is_running():
                self._process.send_signal(number)
                # A frozen process hears nothing but SIGKILL until it is thawed.
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(15)
            self._process = None


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that is not started yet, and is gone when the block ends."""
    assert shutil.which("redis-server"), "redis-server is missing: ./scripts/test installs it"
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()
