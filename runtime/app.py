"""`Runtime`: the declaration of an application. It does no I/O; `serve` makes a `Run` of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import trio

from .broker import Broker
from .compiling import Binding
from .drain import Phase
from .errors import ConfigurationError, leaves
from .outside import outside
from .router import Router
from .run import Run
from .signals import Signals, run_until_signal
from .status import Status

Lifespan = Callable[["Runtime"], AbstractAsyncContextManager[Any]]


class Runtime:
    """Some brokers and the handlers declared on them, ready to be served: once, or again and again.

    Args:
      brokers: each gets its own nursery, connections and back-off; losing one changes nothing for another.
      lifespan: called with this object, returns an async context manager: the outermost block of a run. What it
        yields is the run's `state`.
      grace: seconds that handlers have to finish once a drain has begun; then they are cancelled.

    Raises `ConfigurationError` for a broker given twice, none at all, or a grace below 0.
    """

    def __init__(self, *brokers: Broker[Any], lifespan: Lifespan | None = None, grace: float = 30.0) -> None:
        if not brokers:
            raise ConfigurationError("a Runtime needs at least one broker: Runtime(MemoryBroker()) is the smallest")
        for broker in brokers:
            if not isinstance(broker, Broker):
                raise ConfigurationError(f"{broker!r} is not a broker: pass broker objects; routers go to include()")
        if len(set(brokers)) != len(brokers):
            raise ConfigurationError("a broker was given to Runtime twice")
        if not isinstance(grace, int | float) or not grace >= 0:
            raise ConfigurationError(f"grace is {grace!r}: give seconds from 0 up")
        self.grace = grace
        self._lifespan = lifespan
        #: Everything that is declared, and the broker that it is for.
        self.bindings = [Binding(broker, broker) for broker in brokers]
        self._run: Run | None = None
        self._served = False

    @property
    def brokers(self) -> tuple[Broker[Any], ...]:
        return tuple(binding.broker for binding in self.bindings if binding.declarations is binding.broker)

    @property
    def routers(self) -> tuple[Router, ...]:
        return tuple(b.declarations for b in self.bindings if isinstance(b.declarations, Router))

    def include(self, router: Router, broker: Broker[Any]) -> None:
        """Bind the handlers, publishers and tasks of `router` to `broker`, which must be one of this runtime's."""
        if self._served:
            raise ConfigurationError("this Runtime has been served, so nothing can be included: declare before that")
        if broker not in self.brokers:
            raise ConfigurationError(f"{broker!r} is not a broker of this Runtime: pass it to Runtime(...) first")
        if any(binding.declarations is router for binding in self.bindings):
            raise ConfigurationError(f"{router!r} is included already")
        for declared in router.subscribers:
            broker.check_subscriber(declared)
        self.bindings.append(Binding(router, broker))

    async def serve(self, *, task_status: trio.TaskStatus[Run] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop()`, then drain and return. For `await nursery.start(app.serve)`.

        Reports started, with the `Run`, as soon as the lifespan has: brokers may still be connecting, and one that
        cannot be reached is a state in `status()`, not an error. A cancel tears everything down now: handlers are
        cancelled, their messages given back, connections closed, all within a second.

        Raises `ConfigurationError` for declarations that cannot work, RuntimeError if this object is being served
        already, and whatever an internal task or a user's task died of.
        """
        if self._run is not None:
            raise RuntimeError("this Runtime is being served already; one at a time (make two, or wait for the first)")
        self._served = True
        self._run = Run(self.bindings, self.grace, outside.get())
        try:
            await self._run.serve(self._open_lifespan, task_status)
        finally:
            self._run = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Run]:
        """Serve for the length of a block; drains when the block ends, tears down when it raises."""
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            try:
                run = await nursery.start(self.serve)
                yield run
                run.stop("the block ended")
            except BaseException as raised:
                # Raised again outside of the nursery, so that the caller's `except` meets what was raised, not a group.
                # A cancel is not: it may be the nursery's own.
                if any(isinstance(leaf, trio.Cancelled) for leaf in leaves(raised)):
                    raise
                error = raised
                nursery.cancel_scope.cancel()
        if error is not None:
            raise error

    def run(self) -> int:
        """Serve as the main job of a process, which this owns from here on; what `runtime run` calls.

        SIGTERM, SIGINT and SIGHUP (unless inherited as ignored) begin the drain; a second one cuts it short. A handler
        that cannot be cancelled is named, and the process ends all the same, two seconds after the grace.

        Returns the exit status: 0 after a clean drain, 3 if handlers had to be cancelled, 1 if settlements did not
        reach their broker, 128+N if a second signal N cut the drain short. Raises what `serve` raises.
        """
        with Signals() as signals:
            return run_until_signal(self, signals)

    def stop(self, reason: str = "stop() was called") -> None:
        """Begin the drain of the current run. Idempotent; without a run it does nothing. Call it in the Trio thread."""
        if self._run is not None:
            self._run.stop(reason)

    def status(self) -> Status:
        """A frozen snapshot of the current run, `Phase.IDLE` without brokers if there is none."""
        return Status(Phase.IDLE, None, ()) if self._run is None else self._run.status()

    def _open_lifespan(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext() if self._lifespan is None else self._lifespan(self)
