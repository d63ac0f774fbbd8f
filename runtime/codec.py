"""Bytes ↔ typed body. JSON through msgspec unless a broker or a subscription names another codec.

`bytes` and `str` bodies are never coded: a handler that asks for `bytes` gets what was on the wire.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

Decoder = Callable[[bytes], Any]


class Codec(Protocol):
    """What a broker or a subscription can be given in place of JSON."""

    #: Sent along with each body that this codec encoded, for readers of other makes.
    content_type: str

    def encode(self, body: Any) -> bytes:
        """The body as bytes. Raises TypeError for what it cannot encode."""
        ...

    def decoder(self, annotation: Any) -> Decoder:
        """Compiled once, at start: a function from bytes to an instance of `annotation`.

        It raises any `Exception` for bytes that it cannot decode. Raises TypeError at once for an annotation that it
        could never decode.
        """
        ...


class JsonCodec:
    """JSON by msgspec: builtins, dataclasses, TypedDicts, msgspec Structs, and pydantic models by pydantic itself."""

    content_type = "application/json"

    def encode(self, body: Any) -> bytes:
        if _is_pydantic(type(body)):
            return typing.cast(bytes, body.model_dump_json().encode())
        return msgspec.json.encode(body, enc_hook=_encode_nested)

    def decoder(self, annotation: Any) -> Decoder:
        if _is_pydantic(annotation):
            return typing.cast(Decoder, annotation.model_validate_json)
        _refuse_undecodable(annotation)
        return msgspec.json.Decoder(annotation, dec_hook=_decode_nested).decode


JSON = JsonCodec()


def encode_body(codec: Codec, body: Any) -> tuple[bytes, str]:
    """The bytes to send and their content type. Raises TypeError for a body that `codec` cannot encode."""
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    if isinstance(body, bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain"
    return codec.encode(body), codec.content_type


def body_decoder(codec: Codec, annotation: Any) -> Decoder:
    """A function from bytes to what a handler annotated its body with. Raises TypeError if there can be none."""
    plain = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
    if plain is bytes:
        return _as_is
    if plain is str:
        return bytes.decode
    return codec.decoder(Any if annotation is object else annotation)


def _as_is(body: bytes) -> bytes:
    return body


# pydantic is optional and slow to import, so its models are known by what they can do.
def _is_pydantic(annotation: Any) -> bool:
    return hasattr(annotation, "model_validate_json") and hasattr(annotation, "model_dump_json")


def _encode_nested(body: Any) -> Any:
    if _is_pydantic(type(body)):
        return body.model_dump(mode="json")
    raise TypeError(f"cannot encode a {type(body).__qualname__} as JSON")


def _decode_nested(annotation: Any, value: Any) -> Any:
    if _is_pydantic(annotation):
        return annotation.model_validate(value)
    raise TypeError(f"cannot decode JSON into a {annotation!r}")


def _refuse_undecodable(annotation: Any) -> None:
    # msgspec accepts any class here and fails on the first message; a handler's author should hear of it at once.
    try:
        info = msgspec.inspect.type_info(annotation)
    except Exception as error:
        raise TypeError(f"cannot decode JSON into {annotation!r}: {error}") from error
    unknown = next(_unknown_classes(info), None)
    if unknown is not None:
        raise TypeError(
            f"cannot decode JSON into {unknown!r}: use bytes, str, a builtin, a dataclass, a TypedDict, "
            "a msgspec Struct or a pydantic model, or give the subscription a codec of its own"
        )


def _unknown_classes(info: Any, seen: set[type] | None = None) -> Iterator[type]:
    """The classes inside a msgspec type that neither it nor pydantic can make. A class that holds itself ends it."""
    seen = set() if seen is None else seen
    if isinstance(info, msgspec.inspect.CustomType):
        if not _is_pydantic(info.cls):
            yield info.cls
    elif isinstance(info, list | tuple):
        for part in info:
            yield from _unknown_classes(part, seen)
    elif isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        if (cls := getattr(info, "cls", None)) is not None:
            if cls in seen:
                return
            seen.add(cls)
        for name in info.__struct_fields__:
            if name not in ("default", "default_factory"):
                yield from _unknown_classes(getattr(info, name), seen)
