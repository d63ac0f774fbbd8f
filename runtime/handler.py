"""From a user's function to something that can be called with a message: its signature, read and judged."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Final

from .errors import ConfigurationError
from .message import Message

Function = Callable[..., Awaitable[object]]
Call = Callable[[Any, Message], Awaitable[object]]

#: What a handler may ask for beside its body: annotation → how to get it from the message.
RESOLVERS: Final[dict[Any, Callable[[Message], object]]] = {Message: lambda message: message}

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Handler:
    """A user's async function, and what its parameters ask for.

    Made at registration, where all that can be known then is checked. An annotation that names something defined
    further down the module is resolved by `annotations()`, at the latest when a run starts.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self.name = _name(function)
        self._parameters = _parameters(function, self.name)
        try:
            self.annotations()
        except (NameError, AttributeError):
            pass  # a forward reference: `bind` asks again when the run starts

    def annotations(self) -> dict[str, Any]:
        """Each parameter's annotation, resolved. Raises NameError or AttributeError while one cannot be."""
        hints = self._hints(extras=False)
        found = {p.name: hints.get(p.name, Any) for p in self._parameters}
        self._check(found)
        return found

    def bind(self) -> tuple[Any, Call]:
        """The body's annotation, and a function that calls the handler with (body, message)."""
        try:
            annotations = self.annotations()
        except (NameError, AttributeError) as error:
            raise ConfigurationError(f"handler {self.name}: {error}; its annotations must name real types") from None
        function = self.function
        body = next(name for name, annotation in annotations.items() if annotation not in RESOLVERS)
        # The constraints in an `Annotated[...]` are for the codec.
        body_annotation = self._hints(extras=True).get(body, Any)
        if len(self._parameters) == 1 and self._parameters[0].kind in _POSITIONAL:
            return body_annotation, lambda value, _: function(value)
        positional = [_resolver(p.name, body, annotations) for p in self._parameters if p.kind in _POSITIONAL]
        keyword = {p.name: _resolver(p.name, body, annotations) for p in self._parameters if p.kind not in _POSITIONAL}

        def call(value: Any, message: Message) -> Awaitable[object]:
            return function(
                *[resolve(value, message) for resolve in positional],
                **{name: resolve(value, message) for name, resolve in keyword.items()},
            )

        return body_annotation, call

    def _hints(self, *, extras: bool) -> dict[str, Any]:
        inner = _innermost(self.function)
        target = inner if inspect.isroutine(inner) else type(inner).__call__
        # Without the return annotation: nothing here needs it, so it may name what exists for type checkers only.
        named = {name: hint for name, hint in inspect.get_annotations(target).items() if name != "return"}
        bare = types.SimpleNamespace(__annotations__=named)
        return typing.get_type_hints(bare, getattr(target, "__globals__", {}), include_extras=extras)

    def _check(self, annotations: dict[str, Any]) -> None:
        bodies = [name for name, annotation in annotations.items() if annotation not in RESOLVERS]
        known = ", ".join(resolved.__name__ for resolved in RESOLVERS)
        if not bodies:
            raise ConfigurationError(
                f"handler {self.name} has no parameter for the body: give it exactly one that is not a {known}"
            )
        if len(bodies) > 1:
            raise ConfigurationError(
                f"handler {self.name} has {len(bodies)} parameters for one body ({', '.join(bodies)}): keep one, and "
                f"annotate every other as {known}"
            )

    def __repr__(self) -> str:
        return f"<Handler {self.name}>"


def _resolver(name: str, body: str, annotations: dict[str, Any]) -> Callable[[Any, Message], object]:
    if name == body:
        return lambda value, _: value
    resolve = RESOLVERS[annotations[name]]
    return lambda _, message: resolve(message)


def _parameters(function: Function, name: str) -> tuple[inspect.Parameter, ...]:
    if not callable(function):
        raise ConfigurationError(f"{function!r} is not a function, so it cannot be a handler")
    # Either will do: a wrapper may be what makes a sync function async, or a sync one may pass on what it wraps.
    if not (_is_async(function) or _is_async(_innermost(function))):
        raise ConfigurationError(
            f"handler {name} is not an async function: write `async def`, and call blocking code "
            "with `await trio.to_thread.run_sync(...)`"
        )
    parameters = tuple(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ConfigurationError(f"handler {name} takes {parameter}: name its parameters, one of them for the body")
    return parameters


def _name(function: Function) -> str:
    inner = _innermost(function)
    return f"{getattr(inner, '__module__', '?')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"


def _innermost(function: Any) -> Any:
    """`function` without its wrappers and partials."""
    inner = inspect.unwrap(function)
    return _innermost(inner.func) if isinstance(inner, functools.partial) else inner


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
