"""A broker's process: started, killed and frozen at will, by process id."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

import trio


class ServerProcess(ABC):
    """One process of a broker, whose data outlives a kill. What it says is in `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it: a program that stays one process."""

    @abstractmethod
    def answers(self) -> bool:
        """Ask it. Called in a thread, again and again while it starts."""

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        await self.until_it_answers()

    async def until_it_answers(self, within: float = 30) -> None:
        with trio.move_on_after(within):
            while not await trio.to_thread.run_sync(self.answers):
                assert self.is_running(), self.log.read_text()
                await trio.sleep(0.02)
            return
        raise AssertionError(f"no answer in {within} s:\n{self.log.read_text()}")

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
