"""`open_test`: a whole application in one in-memory world."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar, Unpack, overload

import trio

from runtime.app import Runtime
from runtime.broker import Broker
from runtime.broker_run import BrokerRun
from runtime.codec import body_decoder
from runtime.compiling import unique_name
from runtime.context import active_run
from runtime.declarations import MessageOptions, compose
from runtime.errors import ConfigurationError, leaves
from runtime.handler import Function, Handler
from runtime.message import Message
from runtime.outside import outside
from runtime.run import Run
from runtime.subscription import SubscriptionState

from .line import Line
from .outside import WorldOutside
from .record import Call, PromiseBroken, Record, Settled
from .scheduler import seeded
from .server import SimulatedServer

T = TypeVar("T")

#: The worlds that were opened in this context, for whoever wants to look at them afterwards.
opened: ContextVar[list[World] | None] = ContextVar("opened", default=None)


class World:
    """What a test sees of its application and of the brokers around it. Made by `open_test`."""

    def __init__(self, app: Runtime, seed: int | None, *, collect_errors: bool = False) -> None:
        self.app = app
        self.collect_errors = collect_errors
        #: The run; there from the moment that the block begins.
        self.run: Run
        self.record = Record(self._elapsed)
        self._began = trio.current_time()
        self._lines = _lines(app, self.record)
        self._outside = WorldOutside(self._lines, self.record, self._began, seed)

    # ---- what a test does ----------------------------------------------------------------------------------------

    def broker(self, broker: Broker[Any]) -> Line:
        """The line to `broker`, where its faults are."""
        if broker not in self._lines:
            raise ConfigurationError(f"{broker!r} is not a broker of this world's application")
        return self._lines[broker]

    async def publish(self, body: Any, to: Any, **options: Unpack[MessageOptions]) -> str:
        """Publish as another program would: straight to the broker, whatever the line to it suffers. Returns the id.

        Args:
          to: a handler of the application, or a destination. A destination that several brokers could mean goes to the
            one of them that subscribes it; is that not one either, publish through the broker object.
          body, options: see `Declarations.publish`.

        Raises `ConfigurationError` for an unknown handler or destination, `Unroutable` if nobody could receive it.
        """
        await trio.lowlevel.checkpoint()
        line, destination, log = self._find(to)
        message = compose(self._live(line), body, destination, **options).message
        if log is not None:
            line.server.append(message, log, "test")
        elif (error := line.server.publish(message, destination, "test")) is not None:
            raise error
        return message.id

    async def settled(self, *, collect_errors: bool | None = None) -> list[Exception]:
        """Wait until everything that was set off has ended: every message that a handler of the application reads is
        settled, what handlers published in their turn too, and every publish has its answer. Once the run is told to
        stop, only what it has taken counts.

        Nothing is polled and nothing sleeps. It waits for redeliveries and reconnects too, so a fault without an end makes
        it wait for ever: put `trio.fail_after` around it.

        Raises what handlers have raised since the last call: the error itself if it is one, else a group. With
        `collect_errors`, by default as it was given to `open_test`, they are returned instead.
        """
        await trio.lowlevel.checkpoint()
        while not self._is_settled():
            for live in self.run.brokers:
                await live.outbox.flush()
                await live.settler.flush()
            # While one broker is flushed, another may get something new to send.
            if not self._is_sending() and not self._is_settled():
                await self.record.changed.park()
        errors, self.record.errors = self.record.errors, []
        if errors and not (self.collect_errors if collect_errors is None else collect_errors):
            raise _one(errors)
        return errors

    # ---- what a test asserts on ----------------------------------------------------------------------------------

    def handled(self, handler: Function) -> list[Any]:
        """The bodies that `handler` was called with and returned for, decoded, in the order of its returns."""
        function = self._function(handler)
        return [call.body for call in self.record.returned if call.function is function]

    def calls(self, handler: Function) -> list[Call]:
        """Every attempt of `handler`, in the order of their starts."""
        function = self._function(handler)
        return [call for call in self.record.calls if call.function is function]

    @overload
    def published(self, destination: Any) -> list[Message]: ...
    @overload
    def published(self, destination: Any, body: type[T]) -> list[T]: ...
    def published(self, destination: Any, body: type[T] | None = None) -> list[Message] | list[T]:
        """What was published to `destination`, by anyone, in order: messages, or bodies decoded as `body`.

        What was set aside is in `"<source>.rejected"`.
        """
        name = destination if isinstance(destination, str) else destination.name
        found = [
            (line, message)
            for line in self._servers()
            for published_to, message in line.server.published
            if published_to == name
        ]
        if body is None:
            return [message for _, message in found]
        return [body_decoder(line.broker.codec, body)(message.body) for line, message in found]

    @property
    def settlements(self) -> list[Settled]:
        """Every settlement that reached a broker, in order."""
        return list(self.record.settlements)

    def timeline(self) -> str:
        """What has happened, one line an event. Printed with whatever error leaves the block."""
        return self.record.timeline()

    # ---- inside --------------------------------------------------------------------------------------------------

    def _elapsed(self) -> float:
        return trio.current_time() - self._began

    def _is_settled(self) -> bool:
        return self.record.is_quiet and not self._is_sending() and all(map(self._is_read, self.run.brokers))

    def _is_sending(self) -> bool:
        return any(len(live.outbox) or len(live.settler) for live in self.run.brokers)

    def _is_read(self, live: BrokerRun) -> bool:
        line = self._lines[live.broker]
        sources = [subscription.source for subscription in live.subscriptions]
        return line.is_idle and line.server.is_settled(line.name, sources, stopping=self.run.intake.is_closing)

    def _function(self, handler: Function) -> Function:
        function: Function = inspect.unwrap(handler)
        if function not in self._outside.observed:
            raise ConfigurationError(f"{Handler(handler).name} is not a handler of this world's application")
        return function

    def _servers(self) -> list[Line]:
        """One line for each server."""
        return list({line.server: line for line in self._lines.values()}.values())

    def _live(self, line: Line) -> BrokerRun:
        return next(live for live in self.run.brokers if live.broker is line.broker)

    def _find(self, to: Any) -> tuple[Line, Any, str | None]:
        """The line, the destination, and the log if it is a handler's."""
        if callable(to):
            return self._find_handler(to)
        meant = {broker: spec for broker in self._lines if (spec := _destination(broker, to)) is not None}
        if len(meant) > 1:
            subscribed = {live.broker: [s.source.name for s in live.subscriptions] for live in self.run.brokers}
            meant = {b: spec for b, spec in meant.items() if spec.name in subscribed[b]} or meant
        if not meant:
            raise ConfigurationError(f"{to!s} is a destination on none of this world's brokers")
        if len({self._lines[broker].server for broker in meant}) > 1:
            names = ", ".join(self._lines[broker].name for broker in meant)
            raise ConfigurationError(f"{to!s} could be on {names}: publish to a handler, or through the broker")
        broker, spec = next(iter(meant.items()))
        return self._lines[broker], spec, None

    def _find_handler(self, handler: Function) -> tuple[Line, Any, str]:
        function = inspect.unwrap(handler)
        found = [
            (binding.broker, declared.source)
            for binding in self.app.bindings
            for declared in binding.declarations.subscribers
            if inspect.unwrap(declared.handler.function) is function
        ]
        if len(found) != 1:
            many = "no handler" if not found else f"the handler of {len(found)} subscriptions"
            raise ConfigurationError(
                f"{Handler(handler).name} is {many} of this world's application: name a destination"
            )
        ((broker, spec),) = found
        source = broker.source(spec)
        log = broker.reading(source).logs[0]
        return self._lines[broker], source, log

    async def _ready(self) -> None:
        """Wait until every broker that has no fault yet is connected, and its subscriptions are open."""
        while not self.run.intake.is_closing and not all(
            live.link.is_up and all(s.state is SubscriptionState.RUNNING for s in live.subscriptions)
            for live in self.run.brokers
            if not self._lines[live.broker].has_fault
        ):
            await self.record.changed.park()

    async def _note_the_stop(self) -> None:
        await self.run.intake.closing()
        self.record.note("run", f"stopping: {self.run.status().reason or 'cancelled'}")
        self.record.changed.unpark_all()

    def _begin(self, faults: trio.Nursery) -> None:
        for line in self._lines.values():
            line.begin(faults, self._began)


@asynccontextmanager
async def open_test(
    app: Runtime,
    *,
    seed: int | None = None,
    collect_errors: bool = False,
    plan: Callable[[World], None] | None = None,
) -> AsyncIterator[World]:
    """Serve `app` in a world of its own, in memory: the real runtime, simulated brokers, no change to the application.

    Each broker is simulated by its `Features` and its routing rule, so acks, redelivery, attempts, groups, order and prefetch
    are that broker's. Worlds are scoped by context: several stand side by side in one test. The block begins when every
    broker is connected and every subscription open. With pytest-trio's `autojump_clock` all waiting is virtual.

    Args:
      seed: replays the same run: Trio's scheduler, jitter, ids and times follow from it.
      collect_errors: what handlers raise is not raised here, neither by `settled()`, which returns it, nor at the end.
      plan: puts faults on the world before the application starts; its argument is the world.

    Raises, when the block ends well, what handlers raised and `settled()` did not report, and `PromiseBroken` if the
    runtime broke a promise. Any error that leaves the block carries the timeline as a note.
    """
    error: BaseException | None = None
    world = World(app, seed, collect_errors=collect_errors)
    if (worlds := opened.get()) is not None:
        worlds.append(world)
    if plan is not None:
        plan(world)
    token = outside.set(world._outside)
    try:
        with nullcontext() if seed is None else seeded(seed):
            async with trio.open_nursery() as faults:
                world._begin(faults)
                try:
                    async with app.open() as world.run:
                        faults.start_soon(world._note_the_stop, name="note of the stop")
                        run_token = active_run.set(world.run)
                        try:
                            await world._ready()
                            yield world
                        finally:
                            active_run.reset(run_token)
                except BaseException as raised:
                    # As in `Runtime.open`: raised again outside of the nursery.
                    if any(isinstance(leaf, trio.Cancelled) for leaf in leaves(raised)):
                        raise
                    error = raised
                faults.cancel_scope.cancel()
        if error is None and world.record.violations:
            error = PromiseBroken("; ".join(world.record.violations))
        if error is None and world.record.errors and not collect_errors:
            error = _one(world.record.errors)
        if error is not None:
            error.add_note(f"The world's timeline, in seconds:\n{world.timeline()}")
            raise error
    finally:
        outside.reset(token)


def _lines(app: Runtime, record: Record) -> dict[Broker[Any], Line]:
    servers: dict[Hashable, SimulatedServer] = {}
    names: set[str] = set()
    lines = {}
    for broker in app.brokers:
        server = servers.setdefault(broker.server_identity, SimulatedServer(broker, record))
        lines[broker] = Line(broker, unique_name(broker.name, names), server, record)
    return lines


def _destination(broker: Broker[Any], spec: Any) -> Any:
    try:
        return broker.destination(spec)
    except ConfigurationError:
        return None


def _one(errors: list[Exception]) -> Exception:
    return errors[0] if len(errors) == 1 else ExceptionGroup(f"handlers raised {len(errors)} times", errors)
