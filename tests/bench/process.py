"""A broker's process that a test starts on a free port, and stops, kills and freezes by its process id."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

#: Seconds that a server may take until it answers, and to end.
START_LIMIT: Final = 30.0
STOP_LIMIT: Final = 15.0


def free_port() -> int:
    """A port that nobody listened on a moment ago.

    Below those that the kernel gives to outgoing connections: none of them takes it while the server is down.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ServerProcess(ABC):
    """One process that serves. What it wrote to its folder outlives it, and its port stays the same."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def launch(self) -> None:
        """Start the process and wait for nothing."""

    @abstractmethod
    def answers(self) -> bool:
        """Ask it something. May block for a second."""

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        await trio.to_thread.run_sync(self.wait_until_it_answers)

    def wait_until_it_answers(self) -> None:
        """For where there is no Trio."""
        deadline = time.monotonic() + START_LIMIT
        while not self.answers():
            assert self.is_running(), self.log.read_text()
            assert time.monotonic() < deadline, f"no answer within {START_LIMIT} s\n{self.log.read_text()}"
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM: an orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: sockets stay open, and nothing answers. Every thread of it stands still when this returns."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        deadline = time.monotonic() + STOP_LIMIT
        while not all(state == "T" for state in _states(self._process.pid)):
            assert time.monotonic() < deadline, "it does not stop"
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _launch(self, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self.is_running():
                self._process.send_signal(number)
                # A frozen process hears nothing but SIGKILL until it is thawed.
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(STOP_LIMIT)
            self._process = None


def _states(process: int) -> Iterator[str]:
    """Of each thread, as the kernel names them: T is stopped."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        # The second field is the name, which may have anything in it but ends with the last bracket.
        yield (thread / "stat").read_text().rpartition(")")[2].split()[0]
