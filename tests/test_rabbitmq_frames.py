"""Bytes as frames, however they are cut; what a stranger puts into them never costs the connection."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pamqp import commands, frame as codec, header as pamqp_header
from pamqp.commands import Basic

from adapters.rabbitmq import frames, methods
from adapters.rabbitmq.frames import Frame, FrameParser, ProtocolError
from adapters.rabbitmq.header import TooLong, decode_header, encode_header

moments = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1), timezones=st.just(datetime.UTC))
names = st.text(max_size=30)
some_properties = st.builds(
    Basic.Properties,
    content_type=st.none() | names.filter(bool),
    headers=st.none() | st.dictionaries(names, names | st.booleans() | st.integers(-(2**31), 2**31 - 1), min_size=1),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    message_id=st.none() | names.filter(bool),
    timestamp=st.none() | moments.map(lambda moment: moment.replace(microsecond=0)),
    user_id=st.none() | names.filter(bool),
)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 99), st.binary(max_size=40))), st.data())
def test_frames_come_out_whole_however_the_bytes_are_cut(
    sent: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(frames.frame(*each) for each in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)))))
    parser = FrameParser()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += parser.feed(wire[start:end])
    assert [tuple(frame) for frame in found] == sent


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "it began with b'HTTP/1.1'"),
        (b"AMQP\x00\x01\x00\x00", "another version of AMQP"),
        (b"\x03\x00\x01\x00\x00\x00\x01x!", "does not end where it should"),
        (b"\x03\x00\x01\x7f\x00\x00\x00x", "bytes long, and 131072 were agreed on"),
    ],
)
def test_what_is_no_frame_is_refused(wire: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        FrameParser().feed(wire)


def payload(wire: bytes) -> bytes:
    [frame] = FrameParser().feed(wire)
    return frame.payload


@given(names, st.integers(0, 2**63 - 1), st.booleans(), names)
def test_the_hot_frames_are_read_like_pamqp_writes_them(exchange: str, tag: int, flag: bool, key: str) -> None:
    deliver = payload(frames.frame(1, 5, _deliver(exchange, tag, flag, key)))
    assert frames.parse_deliver(deliver) == ("tag", tag, flag, exchange, key)
    ack = frames.method(5, Basic.Ack(tag, flag))
    assert frames.parse_confirm(payload(ack)) == (tag, flag)
    assert frames.ack(5, tag, multiple=flag) == ack
    assert frames.nack(5, tag) == frames.method(5, Basic.Nack(tag, False, True))
    assert frames.reject(5, tag) == frames.method(5, Basic.Reject(tag, False))


def _deliver(exchange: str, tag: int, redelivered: bool, key: str) -> bytes:
    method = Basic.Deliver("tag", tag, redelivered)
    method.exchange, method.routing_key = exchange, key  # its constructor takes only plain ASCII
    method.validate = lambda: None  # type: ignore[method-assign]
    return codec.marshal(method, 5)[7:-1]


def test_names_are_sent_like_pamqp_sends_those_that_it_takes() -> None:
    arguments: dict[str, Any] = {"x-max-length": 10}
    assert methods.declare_queue(3, "orders", durable=True, arguments=arguments) == frames.method(
        3, commands.Queue.Declare(queue="orders", durable=True, arguments=arguments)
    )
    assert methods.look_at_queue(3, "orders") == frames.method(3, commands.Queue.Declare(queue="orders", passive=True))
    assert methods.declare_exchange(3, "events", "topic", durable=True) == frames.method(
        3, commands.Exchange.Declare(exchange="events", exchange_type="topic", durable=True)
    )
    assert methods.bind_queue(3, "orders", "events", "a.*", {}) == frames.method(
        3, commands.Queue.Bind(queue="orders", exchange="events", routing_key="a.*")
    )
    assert methods.consume(3, "orders", "me") == frames.method(3, Basic.Consume(queue="orders", consumer_tag="me"))
    assert methods.cancel(3, "me") == frames.method(3, Basic.Cancel(consumer_tag="me", nowait=True))
    assert methods.open_vhost("/") == frames.method(0, commands.Connection.Open("/"))


@given(some_properties, st.integers(0, 2**40))
def test_properties_are_written_and_read_like_pamqps(sent: Basic.Properties, size: int) -> None:
    written = encode_header(sent, size)
    theirs = pamqp_header.ContentHeader()
    theirs.unmarshal(written)
    assert (theirs.body_size, theirs.properties) == (size, sent)
    assert decode_header(pamqp_header.ContentHeader(0, size, sent).marshal()) == (size, sent)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_header_are_refused_and_not_a_crash(found: bytes) -> None:
    try:
        decode_header(found)
    except ValueError:
        pass  # what the channel makes a protocol error of


def test_what_a_stranger_wrote_is_read_as_far_as_it_goes() -> None:
    raw = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\xf0\x40" + b"\x01\xff" + b"\x01\xfe"
    table = b"\x01\xffS\x00\x00\x00\x01\xff" + b"\x01t" + b"T\xff\xff\xff\xff\xff\xff\xff\xff" + b"\x01zt\x01"
    raw += len(table).to_bytes(4, "big") + table + b"\x07" + b"\xff" * 8
    size, found = decode_header(raw)
    mark = "\N{REPLACEMENT CHARACTER}"
    assert (size, found.content_type, found.content_encoding, found.delivery_mode) == (5, mark, mark, 7)
    assert found.headers == {mark: mark}  # behind a value that cannot be read nothing can be found
    assert found.timestamp is None


@pytest.mark.parametrize("size", [0, 1, 92, 93, 500])
def test_a_body_is_split_where_the_server_wants_it(size: int) -> None:
    body = bytes(range(250)) * 2
    wire = b"".join(frames.publish(7, "e", "k", mandatory=True, header=b"h", body=body[:size], frame_max=100))
    method, header, *parts = FrameParser().feed(wire)
    assert codec.unmarshal(frames.frame(*method))[2].routing_key == "k"  # type: ignore[union-attr]
    assert header == (2, 7, b"h")
    assert all(part.kind == 3 and 0 < len(part.payload) <= 92 for part in parts)
    assert b"".join(part.payload for part in parts) == body[:size]


def test_what_has_no_room_is_said() -> None:
    with pytest.raises(TooLong, match="its message_id is 256 bytes long"):
        encode_header(Basic.Properties(message_id="x" * 256), 0)
    with pytest.raises(TooLong, match="its headers are 100 bytes long: the server takes 92"):
        frames.publish(1, "", "q", mandatory=True, header=b"x" * 100, body=b"", frame_max=100)
