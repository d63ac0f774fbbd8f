"""A user's function: which ones can be a handler, and how each is called."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import pytest
import trio

from runtime import ConfigurationError, Message
from runtime.handler import Handler

MESSAGE = Message(body=b"7", id="m1", destination="numbers")
Small = Annotated[int, msgspec.Meta(le=9)]


async def only_body(body: int) -> object:
    return body


async def positional_only(body: int, /) -> object:
    return body


async def message_last(body: int, message: Message) -> object:
    return body, message


async def message_first(message: Message, body: int) -> object:
    return body, message


async def message_twice(message: Message, body: int, again: Message) -> object:
    assert message is again
    return body, message


async def keyword_only(*, message: Message, body: int) -> object:
    return body, message


async def one_of_each(message: Message, /, body: int, *, again: Message) -> object:
    assert message is again
    return body, message


async def remarked(body: Annotated[int, "how many"], message: Annotated[Message, ["unhashable"]]) -> object:
    return body, message


async def with_prefix(prefix: str, body: int, message: Message) -> object:
    assert prefix == "prefix"
    return body, message


def sync(body: int) -> object:
    return body


class Service:
    """A handler with state: its method, or the object itself."""

    func = sync  # an attribute that a partial has too

    async def method(self, body: int, message: Message) -> object:
        return body, message

    @classmethod
    async def on_class(cls, body: int) -> object:
        return body

    async def __call__(self, body: int) -> object:
        return body


def traced(function: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **options: Any) -> object:
        return await function(*args, **options)

    return wrapper


def passed_on(function: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Awaitable[object]:
        return function(*args, **options)

    return wrapper


def in_a_task(function: Callable[..., object]) -> Callable[..., Awaitable[object]]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> object:
        await trio.lowlevel.checkpoint()
        return function(*args)

    return wrapper


HANDLERS: dict[str, Callable[..., Awaitable[object]]] = {
    "its body": only_body,
    "a positional-only body": positional_only,
    "the message last": message_last,
    "the message first": message_first,
    "the message twice": message_twice,
    "keywords only": keyword_only,
    "one of each kind": one_of_each,
    "remarks in its annotations": remarked,
    "a partial": functools.partial(with_prefix, "prefix"),
    "a partial of a partial": functools.partial(functools.partial(with_prefix), "prefix"),
    "a method": Service().method,
    "a class method": Service.on_class,
    "an object": Service(),
    "a wrapper": traced(message_first),
    "a wrapped method": traced(Service().method),
    "a partial of a wrapper": functools.partial(traced(with_prefix), "prefix"),
    "a wrapper of a partial": traced(functools.partial(with_prefix, "prefix")),
    "a sync wrapper that passes on": passed_on(message_last),
    "an async wrapper of a sync function": in_a_task(sync),
}


@pytest.mark.parametrize("function", HANDLERS.values(), ids=HANDLERS)
async def test_every_parameter_gets_what_its_annotation_asks_for(function: Callable[..., Awaitable[object]]) -> None:
    annotation, call = Handler(function).bind()
    assert annotation in (int, Annotated[int, "how many"])
    assert await call(7, MESSAGE) in (7, (7, MESSAGE))


async def constrained(body: Small) -> None: ...
async def nested(body: list[Small]) -> None: ...
async def unannotated(body) -> None: ...  # type: ignore[no-untyped-def]


def test_the_constraints_of_an_annotation_reach_the_codec() -> None:
    assert Handler(constrained).bind()[0] == Small
    assert Handler(nested).bind()[0] == list[Small]


def test_a_body_without_annotation_may_be_anything() -> None:
    assert Handler(unannotated).bind()[0] is Any


async def early(body: Later, message: Message) -> object:
    return body, message


async def outer_of_later(body: Later.Inner) -> None: ...


EARLY, EARLY_INNER = Handler(early), Handler(outer_of_later)


class Later:
    """Defined below the handlers that name it, and after they were registered."""

    class Inner: ...


async def test_a_forward_reference_is_resolved_when_the_run_starts() -> None:
    annotation, call = EARLY.bind()
    assert annotation is Later
    assert await call(7, MESSAGE) == (7, MESSAGE)
    assert EARLY_INNER.bind()[0] is Later.Inner


async def nowhere(body: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def no_such(body: msgspec.Nowhere) -> None: ...  # type: ignore[name-defined]
async def two_at_last(body: int, other: AlsoMessage, third: Nowhere2) -> None: ...


TWO_AT_LAST = Handler(two_at_last)
AlsoMessage = Message
Nowhere2 = int


@pytest.mark.parametrize("function", [nowhere, no_such])
def test_a_reference_that_leads_nowhere_is_refused_when_the_run_starts(function: Any) -> None:
    handler = Handler(function)
    with pytest.raises(ConfigurationError, match=rf"{function.__name__}: .*'Nowhere'.*must name real types"):
        handler.bind()


def test_what_a_forward_reference_hid_is_refused_when_the_run_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"2 parameters for one body \(body, third\)"):
        TWO_AT_LAST.bind()


async def no_parameters() -> None: ...
async def only_message(message: Message) -> None: ...
async def two_bodies(body: int, other: int) -> None: ...
async def default(body: int, retries: int = 3) -> None: ...
async def perhaps_message(body: int, message: Message | None) -> None: ...
async def star(*bodies: int) -> None: ...
async def double_star(body: int, **options: int) -> None: ...


REFUSED: list[tuple[Any, str]] = [
    (no_parameters, "no parameter for the body"),
    (only_message, "no parameter for the body: give it exactly one that is not a Message"),
    (two_bodies, r"2 parameters for one body \(body, other\)"),
    (default, r"2 parameters for one body \(body, retries\)"),
    (perhaps_message, r"2 parameters for one body \(body, message\)"),
    (functools.partial(with_prefix, prefix="prefix"), r"2 parameters for one body \(prefix, body\)"),
    (star, r"takes \*bodies"),
    (double_star, r"takes \*\*options"),
    (sync, "sync is not an async function: .*trio.to_thread"),
    (functools.partial(sync), "is not an async function"),
    (lambda body: body, "is not an async function"),
    (Service, "is not an async function"),
    ("orders", "'orders' is not a function"),
    (None, "None is not a function"),
]


@pytest.mark.parametrize(("function", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_cannot_be_a_handler_is_refused_at_registration(function: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Handler(function)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (only_body, "only_body"),
        (traced(only_body), "only_body"),
        (functools.partial(with_prefix, "prefix"), "with_prefix"),
        (Service().method, "Service.method"),
        (Service(), "Service"),
    ],
)
def test_a_handler_is_named_after_what_its_author_wrote(function: Any, name: str) -> None:
    assert Handler(function).name == f"{__name__}.{name}"
