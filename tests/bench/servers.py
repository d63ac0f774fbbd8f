"""Broker processes that a test starts on a free port in a temporary folder, and stops by process id."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .process import ServerProcess


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer(ServerProcess):
    """One `redis-server` process. Its data outlives a kill: every write is in its append-only file first."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder / "redis.log")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._folder = folder
        self._options = options

    def command(self) -> list[str]:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        return [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "always", *self._options]

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

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False


def missing() -> str | None:
    """Why no Redis can be started, or None."""
    return None if shutil.which("redis-server") else "redis-server is not on PATH"


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that is not started yet, and is gone when the block ends."""
    assert missing() is None, f"{missing()}: ./scripts/test installs it"
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()
