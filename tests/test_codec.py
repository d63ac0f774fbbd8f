"""Bytes ↔ typed bodies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from runtime import Codec, JsonCodec
from runtime.codec import JSON, body_decoder, encode_body


@dataclasses.dataclass
class Point:
    x: int
    y: int | None = None


class Options(TypedDict):
    depth: int


class Order(msgspec.Struct):
    id: int
    total: float = 0.0


class Customer(pydantic.BaseModel):
    name: str
    orders: int = pydantic.Field(default=0, ge=0)


@dataclasses.dataclass
class Shop:
    customers: list[Customer]


class Opaque:
    """Something that no JSON becomes."""


@pytest.mark.parametrize(
    ("body", "wire", "content_type"),
    [
        (b"\xff\x00", b"\xff\x00", "application/octet-stream"),
        (bytearray(b"ab"), b"ab", "application/octet-stream"),
        (memoryview(b"abcd")[::2], b"ac", "application/octet-stream"),
        ("grüße", "grüße".encode(), "text/plain"),
        (None, b"null", "application/json"),
        ([1, 2.5, "x", None, True], b'[1,2.5,"x",null,true]', "application/json"),
        (Point(1), b'{"x":1,"y":null}', "application/json"),
        (Options(depth=3), b'{"depth":3}', "application/json"),
        (Order(1, 9.5), b'{"id":1,"total":9.5}', "application/json"),
        (Customer(name="ada"), b'{"name":"ada","orders":0}', "application/json"),
        ([Customer(name="ada")], b'[{"name":"ada","orders":0}]', "application/json"),
        (Shop([Customer(name="ada")]), b'{"customers":[{"name":"ada","orders":0}]}', "application/json"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_body_becomes_these_bytes_of_this_content_type(body: Any, wire: bytes, content_type: str) -> None:
    assert encode_body(JSON, body) == (wire, content_type)


def test_bytes_and_text_are_never_coded() -> None:
    """Not even when they look like JSON, and not when the annotation carries a remark."""
    annotation: Any
    for annotation in (bytes, Annotated[bytes, "a picture"]):
        assert body_decoder(JSON, annotation)(b'"\xff') == b'"\xff'
    for annotation in (str, Annotated[str, "a sentence"]):
        assert body_decoder(JSON, annotation)(b'"quoted"') == '"quoted"'
    with pytest.raises(UnicodeDecodeError):
        body_decoder(JSON, str)(b"\xff")


@pytest.mark.parametrize(
    ("annotation", "wire", "body"),
    [
        (int, b"3", 3),
        (dict, b'{"a":[1]}', {"a": [1]}),
        (list[int], b"[1,2]", [1, 2]),
        (int | None, b"null", None),
        (Literal["on", "off"], b'"on"', "on"),
        (object, b'{"a":1}', {"a": 1}),
        (Any, b"[1]", [1]),
        (Point, b'{"x":1}', Point(1)),
        (Options, b'{"depth":3}', {"depth": 3}),
        (Order, b'{"id":1,"total":9.5}', Order(1, 9.5)),
        (list[Order], b'[{"id":1}]', [Order(1)]),
        (Customer, b'{"name":"ada"}', Customer(name="ada")),
        (list[Customer], b'[{"name":"ada"}]', [Customer(name="ada")]),
        (Shop, b'{"customers":[{"name":"ada"}]}', Shop([Customer(name="ada")])),
    ],
    ids=str,
)
def test_these_bytes_become_a_body_of_the_annotated_type(annotation: Any, wire: bytes, body: Any) -> None:
    decoded = body_decoder(JSON, annotation)(wire)
    assert decoded == body
    assert type(decoded) is type(body)


@pytest.mark.parametrize(
    ("annotation", "wire"),
    [
        (int, b'"3"'),
        (int, b"not json"),
        (dict, b"\xff"),
        (Point, b'{"y":1}'),
        (Options, b"{}"),
        (Order, b'{"id":"one"}'),
        (Customer, b'{"name":"ada","orders":-1}'),
        (list[Customer], b'[{"name":"ada","orders":-1}]'),
        (Annotated[int, msgspec.Meta(ge=0)], b"-1"),
    ],
    ids=str,
)
def test_bytes_that_are_something_else_raise(annotation: Any, wire: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the libraries'
        body_decoder(JSON, annotation)(wire)


@pytest.mark.parametrize("annotation", [Opaque, Callable[[int], int], complex, 5, "a string"], ids=str)
def test_an_annotation_that_could_never_be_decoded_is_refused_at_once(annotation: Any) -> None:
    with pytest.raises(TypeError, match="cannot decode JSON into"):
        body_decoder(JSON, annotation)


@pytest.mark.parametrize("body", [Opaque(), [Opaque()], {"a": Opaque()}, Order], ids=repr)
def test_a_body_that_cannot_be_encoded_raises(body: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot encode a (Opaque|StructMeta) as JSON"):
        encode_body(JSON, body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_values)
def test_what_was_encoded_decodes_to_the_same(value: Any) -> None:
    wire, _ = encode_body(JSON, value)
    assert body_decoder(JSON, Any)(wire) == value


class Shouting:
    """A codec of a user's own."""

    content_type = "text/loud"

    def encode(self, body: Any) -> bytes:
        return str(body).upper().encode()

    def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
        return lambda body: (annotation, body.decode().lower())


def test_a_codec_of_ones_own_codes_all_but_bytes_and_text() -> None:
    codec: Codec = Shouting()
    assert encode_body(codec, ["a"]) == (b"['A']", "text/loud")
    assert encode_body(codec, "a") == (b"a", "text/plain")
    assert encode_body(codec, b"a") == (b"a", "application/octet-stream")
    assert body_decoder(codec, Opaque)(b"LOUD") == (Opaque, "loud")
    assert body_decoder(codec, bytes)(b"LOUD") == b"LOUD"


def test_the_default_codec_can_be_extended() -> None:
    class Lenient(JsonCodec):
        def decoder(self, annotation: Any) -> Callable[[bytes], Any]:
            return msgspec.json.Decoder(annotation, strict=False).decode

    assert body_decoder(Lenient(), int)(b'"3"') == 3
