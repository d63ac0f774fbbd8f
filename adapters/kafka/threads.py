"""A thread that drives one confluent client, and the Trio side of it.

A client's calls block, are serialised by a gate inside the library, and cannot be interrupted. So each client belongs to
one thread, nobody else calls it, and whoever wants something of it puts a command into the thread's queue. News cross
back in batches, one `TrioToken.run_sync_soon` each.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import trio

from runtime.errors import Refused, SessionLost

logger = logging.getLogger("adapters.kafka")

T = TypeVar("T")

#: Threads that may be left over at once: past it a new client has to wait for one of them to end.
MOST_LEFT_OVER: Final = 16


class Leftovers:
    """The threads that were given up on, because a call of theirs did not return in time. Each ends by itself."""

    def __init__(self) -> None:
        self._threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        return len(self._threads)

    def add(self, thread: threading.Thread) -> None:
        self._threads.add(thread)


class ClientThread:
    """Made and used in Trio, but for what is under "in the thread".

    A daemon: a call into the client that never returns must not keep the process from exiting. Its owner ends it with
    `stop`, which is bounded; what does not end in time is counted in `leftovers` and ends by itself when its call does.
    """

    def __init__(self, name: str, leftovers: Leftovers) -> None:
        self.name = name
        self.stopping = False
        #: When the thread last came by, by `time.monotonic`.
        self.beat = time.monotonic()
        self.error: Exception | None = None
        self._leftovers = leftovers
        self._commands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._questions: set[_Question[Any]] = set()
        # The thread's own.
        self._is_in_callback = False
        self._postponed: list[_Question[Any]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._drive: Callable[[], object] = bool

    def start(self, drive: Callable[[], None]) -> None:
        """Run `drive` in the thread; it returns soon after `stopping` is set."""
        if len(self._leftovers) >= MOST_LEFT_OVER:
            raise Refused(f"{len(self._leftovers)} threads of earlier Kafka clients have not ended yet")
        self._drive = drive
        self._thread.start()

    def tell(self, command: Callable[[], object]) -> None:
        """Have `command` called in the thread, after all that was told before."""
        self._commands.put(command)

    async def ask(self, function: Callable[[], T]) -> T:
        """Call `function` in the thread and return what it returns, or raise what it raises.

        Raises `SessionLost` if the thread ends first. After a cancel it may be called all the same.
        """
        if self._ended.is_set():
            raise self.loss()
        question = _Question(function)
        self._questions.add(question)
        try:
            self.tell(lambda: self._answer(question))
            await question.answered.wait()
        finally:
            self._questions.discard(question)
        if question.error is not None:
            raise question.error
        if not question.results:
            raise self.loss()
        return question.results[0]

    async def run(self) -> None:
        """Wait for the thread's end. Raises what ended it, unless it was told to stop."""
        await self._ended.wait()
        if not self.stopping:
            raise self.loss()

    async def stop(self, limit: float) -> None:
        """Tell the thread to end and wait for it, `limit` seconds at most, also under a cancel."""
        self.stopping = True
        self.tell(bool)
        if self._thread.ident is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
            await self._ended.wait()
            # It has said its last word; what is left of it takes microseconds.
            self._thread.join(0.05)
        if self._thread.is_alive():
            self._leftovers.add(self._thread)
            logger.warning("%s did not end within %g s: it is left to itself", self.name, limit)

    def loss(self) -> Exception:
        return self.error or SessionLost(f"{self.name} has ended", sent=False)

    def _end(self, error: Exception | None) -> None:
        self.error = error
        self._ended.set()
        for question in self._questions:
            question.answered.set()

    # ---- in the thread -------------------------------------------------------------------------------------------

    def obey(self, wait: float = 0.0, *, in_callback: bool = False) -> None:
        """Carry out all commands there are; wait up to `wait` seconds for the first.

        In a callback of the client's, what was asked waits until that is over. It may block; and a `list_topics` that is
        called there makes confluent-kafka (2.16) abort the process at the next callback of the same poll.
        """
        self.beat = time.monotonic()
        self._is_in_callback = in_callback
        if not in_callback and self._postponed:
            postponed, self._postponed, wait = self._postponed, [], 0.0
            for question in postponed:
                self._answer(question)
        try:
            command = self._commands.get(timeout=wait) if wait > 0 else self._commands.get_nowait()
            while True:
                command()
                command = self._commands.get_nowait()
        except queue.Empty:
            pass

    def report(self, news: Callable[..., object], *args: object) -> None:
        """Have `news(*args)` called in Trio, after all that was reported before."""
        try:
            self._token.run_sync_soon(news, *args)
        except trio.RunFinishedError:
            pass  # nobody is left to hear it

    def _answer(self, question: _Question[T]) -> None:
        if self._is_in_callback:
            self._postponed.append(question)
            return
        try:
            question.results.append(question.function())
        except Exception as error:
            question.error = error
        self.report(question.answered.set)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._drive()
        except Exception as caught:
            error = caught
        self.report(self._end, error)


class _Question(Generic[T]):
    """Something asked of the thread. Compared by identity."""

    __slots__ = ("answered", "error", "function", "results")

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.results: list[T] = []
        self.error: Exception | None = None
        self.answered = trio.Event()
