"""Signals, and the last resort: signal → drain, second signal → tear-down, deadline → the process ends.

Not `trio.open_signal_receiver`: that hands a signal to a Trio task, and Trio's tasks do not run while a handler blocks
the loop, nor while a module is being imported. A plain handler runs between two bytecodes of whatever blocks.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import trio

from .drain import HARD_EXIT_AFTER, Phase
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .app import Runtime
    from .run import Run

_STOPPING = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")


class Interrupted(BaseException):
    """A signal arrived while nothing was running yet that would have to be drained."""


class Signals:
    """Owns the process's stopping signals for the length of a `with` block. Keep it outermost."""

    def __init__(self) -> None:
        #: The first and the second signal, by number.
        self.received: list[int] = []
        self._previous: dict[signal.Signals, Any] = {}
        self._listener: Callable[[int], None] | None = None
        self._raising = False

    def __enter__(self) -> Self:
        for name in _STOPPING:
            number = getattr(signal, name, None)
            if number is None:
                continue
            # nohup's way of saying that this process outlives its terminal.
            if name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:
                raise ConfigurationError(
                    "run() owns the process's signals, so it must be called in the main thread; elsewhere use "
                    "trio.run(app.serve)"
                ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """In this block (the import of user modules) a signal raises `Interrupted`, as there is nothing to drain."""
        self._raising = True
        try:
            yield
        finally:
            self._raising = False

    @contextmanager
    def listening(self, listener: Callable[[int], None]) -> Iterator[None]:
        """In this block every signal calls `listener`, in the signal handler; at once for those that came before."""
        self._listener = listener
        for number in self.received:
            listener(number)
        try:
            yield
        finally:
            self._listener = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._raising:
            raise Interrupted
        if self._listener is not None:
            self._listener(number)


class HardExit:
    """A thread that ends the process at a deadline, whatever the rest of it is doing.

    Owned by a `with` block, which joins it. It is started early and told by a SimpleQueue, because a signal handler may
    neither start a thread nor take a lock, and a SimpleQueue's `put` is reentrant.
    """

    def __init__(self, describe: Callable[[], list[str]], status: Callable[[], int]) -> None:
        self._describe = describe
        self._status = status
        self._orders: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._wait, name="runtime hard exit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._orders.put(None)
        self._thread.join()

    def arm(self, seconds: float) -> None:
        """End the process in `seconds`, or when an earlier call said, whichever is sooner.

        Not the last call wins: a signal's handler may be interrupted by the next signal's and then arm after it.
        """
        self._orders.put(time.monotonic() + seconds)

    def _wait(self) -> None:
        # The second of two signals in a row may be given to another thread than the first. A main thread that blocks is
        # not woken by that, and only the main thread runs handlers, so this thread takes none.
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, n) for n in _STOPPING if hasattr(signal, n)])
        deadline = math.inf
        while True:
            try:
                timeout = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
                order = self._orders.get(timeout=timeout)
            except queue.Empty:
                break
            if order is None:
                return
            deadline = min(deadline, order)
        # Neither logging nor sys.stderr: whoever is stuck may hold their locks.
        names = ", ".join(self._describe()) or "nothing that is known of"
        os.write(2, f"runtime: exiting by force; could not be cancelled: {names}\n".encode())
        os._exit(self._status())


class _Started:
    """Stands in for a nursery's task status: keeps the run that `serve` reports."""

    run: Run | None = None

    def started(self, value: Run | None = None) -> None:
        self.run = value

    def unfinished(self) -> list[str]:
        return ["the start of the lifespan"] if self.run is None else self.run.unfinished()


def run_until_signal(app: Runtime, signals: Signals) -> int:
    """`Runtime.run`: serve, drain on the first signal, tear down on the second. Returns the exit status."""
    started = _Started()

    async def main(hard_exit: HardExit) -> None:
        token = trio.lowlevel.current_trio_token()

        def stop(reason: str) -> None:
            app.stop(reason)
            if app.status().phase is Phase.IDLE:  # not begun: there is nothing to drain
                scope.cancel()

        def on_signal(number: int) -> None:
            first = len(signals.received) == 1
            hard_exit.arm(HARD_EXIT_AFTER + (app.grace if first else 0))
            try:
                if first:
                    token.run_sync_soon(stop, signal.Signals(number).name)
                else:
                    token.run_sync_soon(scope.cancel)
            except trio.RunFinishedError:
                pass  # over already

        with trio.CancelScope() as scope, signals.listening(on_signal):
            await app.serve(task_status=started)

    def forced_status() -> int:
        return 128 + signals.received[1] if len(signals.received) > 1 else 3

    with HardExit(started.unfinished, forced_status) as hard_exit:
        trio.run(main, hard_exit)
    if len(signals.received) > 1:
        return 128 + signals.received[1]
    return 0 if started.run is None else started.run.report.exit_status
