"""The live state of one run, and its whole life in `Run._live`: read that first, it is the pipeline from end to end."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from .broker_run import BrokerRun
from .compiling import Binding, compile_brokers
from .context import active_run
from .drain import HARD_EXIT_AFTER, TEARDOWN_FLUSH_LIMIT, Drain, Phase, Report
from .intake import Intake
from .outside import Outside
from .services import Services, open_services
from .status import Status

logger = logging.getLogger("runtime")


class Run:
    """One life of a `Runtime`. Made by `Runtime.serve`; a handler reaches its own by `current_run()`."""

    def __init__(self, bindings: Sequence[Binding], grace: float, outside: Outside) -> None:
        #: What the lifespan yielded.
        self.state: Any = None
        #: Unique to this run, across processes and hosts: the name under which it consumes.
        self.identity = outside.identity()
        self.intake = Intake()
        self._live_of = compile_brokers(bindings, self.intake, outside)
        self.brokers: list[BrokerRun] = list(dict.fromkeys(self._live_of.values()))
        self._tasks = [task for binding in bindings for task in binding.declarations.tasks]
        self._running_tasks: set[str] = set()
        self._drain = Drain(grace)
        self._started = False
        self._closed = False
        self._unflushed = 0
        self._scope = trio.CancelScope()
        self._handlers: trio.Nursery | None = None

    # ---- what users call -----------------------------------------------------------------------------------------

    def stop(self, reason: str = "stop() was called") -> None:
        """Begin the drain: take nothing new, let the handlers finish within the grace. Idempotent, never blocks."""
        if not self._drain.begin(reason, trio.current_time()):
            return
        logger.info("stopping: %s; handlers have %g s to finish", reason, self._drain.grace)
        assert self._drain.deadline is not None
        if self._handlers is None:
            # The lifespan is still starting, and it is what the grace is for; `_start` takes this back.
            self._scope.deadline = self._drain.deadline
        self.intake.close()
        for live in self.brokers:
            for dispatch in live.dispatches:
                dispatch.give_back()

    @property
    def phase(self) -> Phase:
        if self._closed:
            return Phase.CLOSED
        if self._drain.deadline is None:
            return Phase.RUNNING
        return Phase.DRAINING if trio.current_time() < self._drain.deadline else Phase.CANCELLING

    def status(self) -> Status:
        """A frozen snapshot."""
        return Status(self.phase, self._drain.reason, tuple(live.status() for live in self.brokers))

    def unfinished(self) -> list[str]:
        """The names of all handlers and tasks that run now. Safe to call from any thread."""
        dispatches = [dispatch for live in self.brokers for dispatch in live.dispatches]
        handlers = [f"{d.handler} (message {x.message.id})" for d in dispatches for x in tuple(d.running)]
        return [*handlers, *(f"task {name}" for name in tuple(self._running_tasks))]

    @property
    def report(self) -> Report:
        """What the run came to; final when it is closed."""
        cancelled = sum(d.counters.cancelled for live in self.brokers for d in live.dispatches)
        return Report(self._drain.reason or "cancelled", cancelled, self._unflushed, self._scope.cancelled_caught)

    # ---- its life ------------------------------------------------------------------------------------------------

    async def serve(
        self, lifespan: Callable[[], AbstractAsyncContextManager[Any]], task_status: trio.TaskStatus[Run]
    ) -> None:
        """The whole life: returns after a drain, raises if an internal task or a user's task failed."""
        token = active_run.set(self)
        for declarations, live in self._live_of.items():
            declarations.freeze()
            declarations.attach(self, live)
        try:
            with self._scope:
                async with lifespan() as self.state:
                    await self._live(task_status)
            if self._handlers is None:  # stopped while the lifespan was starting
                task_status.started(self)
        finally:
            for declarations in self._live_of:
                declarations.detach(self)
            active_run.reset(token)
            self._closed = True
            logger.info("stopped: %s", self.report)

    async def _live(self, task_status: trio.TaskStatus[Run]) -> None:
        graceful = False
        async with open_services() as brokers:  # 4. Last, every connection closes.
            try:
                async with trio.open_nursery() as handlers:  # 2. Then the handlers finish, within the grace.
                    try:
                        self._start(brokers, handlers)
                        self._announce()
                        task_status.started(self)
                        await self.intake.closed()  # 1. First nothing new is taken,
                    finally:
                        await self._close_intake()  # not under a cancel either: no poller may outlive `handlers`.
                graceful = True
            finally:
                await self._flush(graceful)  # 3. Then every ack and publish is sent.

    def _start(self, brokers: Services, handlers: trio.Nursery) -> None:
        """Start everything, inside out: what a poller feeds exists before it polls. Nothing here waits for a broker."""
        self._handlers = handlers
        self._scope.deadline = math.inf
        for live in self.brokers:
            for dispatch in live.dispatches:
                dispatch.open(handlers)
            brokers.start_soon(live.run, self.identity, name=f"broker {live.name}")
        brokers.start_soon(self._enforce_grace, handlers, name="drain watch")
        for task in self._tasks:
            handlers.start_soon(self._run_task, task, name=f"task {task.__qualname__}")

    def _announce(self) -> None:
        for live in self.brokers:
            logger.info("serving %s at %s", live.name, live.broker.safe_url)
            for subscription in live.subscriptions:
                d = subscription.dispatch
                bounds = f"concurrency {d.concurrency}, prefetch {d.prefetch}"
                logger.info("  %s → %s (%s)", subscription.source, d.handler, bounds)

    async def _run_task(self, task: Callable[[], Awaitable[object]]) -> None:
        name = task.__qualname__
        self._running_tasks.add(name)
        try:
            with self.intake.scope():
                await task()
        finally:
            self._running_tasks.remove(name)

    async def _close_intake(self) -> None:
        self.intake.close()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + TEARDOWN_FLUSH_LIMIT):
            await self.intake.closed()

    async def _flush(self, graceful: bool) -> None:
        now = trio.current_time()
        deadline = self._drain.flush_deadline(now) if graceful else now + TEARDOWN_FLUSH_LIMIT
        with trio.CancelScope(shield=True, deadline=deadline):
            async with trio.open_nursery() as nursery:
                for live in self.brokers:
                    nursery.start_soon(live.flush)
        self._unflushed = sum(len(live.settler) for live in self.brokers)
        # What is left, closing the connections and the lifespan's own end, is bounded too.
        self._scope.deadline = max(deadline, trio.current_time()) + HARD_EXIT_AFTER

    async def _enforce_grace(self, handlers: trio.Nursery) -> None:
        """Cancel the handlers for which the grace was too short, by name, and say which do not even heed that."""
        await self.intake.closing()
        if self._drain.deadline is not None:  # else it is a tear-down, and they are cancelled already
            await trio.sleep_until(self._drain.deadline)
            if names := self.unfinished():
                logger.error("the grace of %g s is over; cancelling %s", self._drain.grace, ", ".join(names))
            handlers.cancel_scope.cancel()
        await trio.sleep(HARD_EXIT_AFTER / 2)
        if names := self.unfinished():
            logger.error("still running although cancelled: %s", ", ".join(names))
        await trio.sleep_forever()
