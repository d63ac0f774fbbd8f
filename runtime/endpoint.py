"""The one seam in the middle: `Endpoint: async (Work) -> Outcome`, compiled once at start.

Everything that may come between a delivery and its handler (retry, tracing, batches, dependencies) is a middleware
`async (Work, next) -> Outcome` around the innermost endpoint, so nothing else needs to know of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from . import retry
from .codec import Codec, body_decoder
from .delivery import ACK, Delivery, Outcome, Reject, Release
from .errors import ConfigurationError, describe, root_cause
from .handler import Handler
from .message import Message

logger = logging.getLogger("runtime.handler")


class Work(NamedTuple):
    """What one call of an endpoint is about: one delivery today, a batch when there are batch handlers."""

    deliveries: tuple[Delivery, ...]


Endpoint = Callable[[Work], Awaitable[Outcome]]
Middleware = Callable[[Work, Endpoint], Awaitable[Outcome]]
#: A middleware for a handler, given what decodes its bodies, or None: the test kit's way to see each call.
Observe = Callable[[Handler, Callable[[bytes], Any]], Middleware | None]
#: Publishes what a handler returned, given the message that it returned it for.
PublishResult = Callable[[Any, Message], Awaitable[None]]


def compile_endpoint(
    handler: Handler, codec: Codec, publishers: Sequence[PublishResult], observe: Observe = lambda handler, decode: None
) -> Endpoint:
    """Decode, call the handler, publish what it returned, ack; a failure goes to `retry`.

    Raises `ConfigurationError` for a handler whose annotations cannot be resolved or whose body cannot be decoded.
    """
    annotation, call = handler.bind()
    try:
        decode = body_decoder(codec, annotation)
    except TypeError as error:
        raise ConfigurationError(f"handler {handler.name}: {error}") from error

    async def endpoint(work: Work) -> Outcome:
        (delivery,) = work.deliveries
        message = delivery.message
        try:
            body = decode(message.body)
        except Exception as error:
            # Any exception: a codec is foreign code, and a body that it chokes on will choke it again.
            return Reject(f"its body does not decode: {describe(error)}")
        result = await call(body, message)
        if result is not None:
            for publish in publishers:
                await publish(result, message)
        return ACK

    observer = observe(handler, decode)
    seen = endpoint if observer is None else wrap(endpoint, observer)
    return wrap(seen, contain_failures(handler.name))


def wrap(endpoint: Endpoint, middleware: Middleware) -> Endpoint:
    """`endpoint` with `middleware` around it."""

    async def wrapped(work: Work) -> Outcome:
        return await middleware(work, endpoint)

    return wrapped


def contain_failures(name: str) -> Middleware:
    """The outermost middleware: whatever a handler raises becomes an outcome; only a cancel passes."""

    async def contain(work: Work, next: Endpoint) -> Outcome:
        failure: BaseException
        try:
            return await next(work)
        # A handler with a nursery may raise a group of errors and cancels: the cancels go on, by `except*`.
        except* Exception as group:
            failure = group
        (delivery,) = work.deliveries
        outcome = retry.decide(delivery.message.attempt, failure)
        then = f"again in {outcome.after:g} s" if isinstance(outcome, Release) else "set aside"
        what = f"failed on message {delivery.message.id}, attempt {delivery.message.attempt}, {then}"
        logger.warning("%s %s", name, what, exc_info=_from_the_handler(root_cause(failure)))
        return outcome

    return contain


def _from_the_handler(error: BaseException) -> BaseException:
    """`error` with the part of its traceback that is not this file's: what its author wants to read."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return error.with_traceback(traceback)
