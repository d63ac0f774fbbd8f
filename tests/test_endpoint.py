"""The endpoint: decode, call, publish, judge. A handler's error becomes an outcome; a cancel stays a cancel."""

from __future__ import annotations

import dataclasses
import typing
from traceback import extract_tb
from typing import Any

import msgspec
import pydantic
import pytest
import trio
from trio.testing import MockClock

from runtime import BrokerUnavailable, Message
from runtime.codec import JSON
from runtime.delivery import ACK, Delivery, Outcome, Reject, Release
from runtime.endpoint import PublishResult, Work, compile_endpoint
from runtime.handler import Function, Handler
from runtime.retry import MAX_ATTEMPTS, PAUSE


async def _outcome(
    function: Function, body: bytes = b"1", attempt: int = 1, publishers: tuple[PublishResult, ...] = ()
) -> Outcome:
    message = Message(body=body, id="m", destination="orders", attempt=attempt)
    return await compile_endpoint(Handler(function), JSON, publishers)(Work((Delivery(message, 1, "orders"),)))


class Struct(msgspec.Struct):
    id: int


@dataclasses.dataclass
class Data:
    id: int


class Model(pydantic.BaseModel):
    id: int


class Typed(typing.TypedDict):
    id: int


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Struct, Struct(1)),
        (Data, Data(1)),
        (Model, Model(id=1)),
        (Typed, {"id": 1}),
        (dict, {"id": 1}),
        (Any, {"id": 1}),
        (object, {"id": 1}),
        (bytes, b'{"id": 1}'),
        (str, '{"id": 1}'),
    ],
)
async def test_the_body_is_decoded_into_what_the_handler_asks_for(annotation: Any, expected: object) -> None:
    got: list[object] = []

    async def handle(body: object) -> None:
        got.append(body)

    handle.__annotations__["body"] = annotation
    assert await _outcome(handle, b'{"id": 1}') == ACK
    assert got == [expected]


async def test_parameters_are_found_by_their_annotation_in_any_order() -> None:
    got: list[object] = []

    async def handle(message: Message, /, *, number: int) -> None:
        got.extend([message.id, number])

    assert await _outcome(handle) == ACK
    assert got == ["m", 1]


@pytest.mark.promise("P6")
async def test_the_result_is_published_before_the_ack_and_none_is_not() -> None:
    story: list[object] = []

    async def publish(result: object, message: Message) -> None:
        story.append((result, message.id))

    async def handle(number: int) -> int | None:
        return number or None

    assert await _outcome(handle, b"7", publishers=(publish, publish)) == ACK
    assert await _outcome(handle, b"0", publishers=(publish,)) == ACK
    assert story == [(7, "m"), (7, "m")]


@pytest.mark.promise("P6")
async def test_a_result_that_could_not_be_published_is_not_acked() -> None:
    async def publish(result: object, message: Message) -> None:
        raise BrokerUnavailable("away")

    async def handle(number: int) -> int:
        return number

    assert await _outcome(handle, publishers=(publish,)) == Release(after=PAUSE, counted=False)


@pytest.mark.parametrize("body", [b"", b"\xff", b'"text"', b"{"])
async def test_a_body_that_does_not_decode_is_rejected_without_calling_the_handler(body: bytes) -> None:
    async def handle(number: int) -> None:
        raise AssertionError("it was called")

    outcome = await _outcome(handle, body)
    assert isinstance(outcome, Reject)
    assert outcome.reason.startswith("its body does not decode: ")


@pytest.mark.promise("P8")
async def test_failures_are_released_ever_later_and_at_last_rejected() -> None:
    async def handle(number: int) -> None:
        raise ValueError("no")

    outcomes = [await _outcome(handle, attempt=attempt) for attempt in range(1, MAX_ATTEMPTS + 1)]
    assert outcomes == [
        Release(after=0.2),
        Release(after=0.4),
        Release(after=0.8),
        Release(after=1.6),
        Reject("failed 5 times, the last time with ValueError: no"),
    ]


async def test_an_unavailable_broker_inside_a_group_is_still_no_fault_of_the_message() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def handle(number: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, ValueError("as a consequence"))
            nursery.start_soon(fail, BrokerUnavailable("away"))

    assert await _outcome(handle, attempt=MAX_ATTEMPTS) == Release(after=PAUSE, counted=False)


@pytest.mark.promise("P2")
async def test_a_cancel_is_no_failure_even_together_with_errors(autojump_clock: MockClock) -> None:
    async def fail_on_cancel() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while it was cancelled")

    async def handle(number: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_on_cancel)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        await _outcome(handle)
        raise AssertionError("it returned an outcome")
    assert scope.cancelled_caught


async def test_a_failure_is_logged_with_the_handlers_own_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(number: int) -> None:
        raise ValueError("no")

    await _outcome(handle)
    (record,) = caplog.records
    assert "failed on message m, attempt 1, again in 0.2 s" in record.getMessage()
    assert record.exc_info is not None
    traceback = record.exc_info[2]
    assert traceback is not None
    assert [frame.name for frame in extract_tb(traceback)] == ["handle"]
