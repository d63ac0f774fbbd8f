"""What a message is made of crosses the broker unchanged."""

from __future__ import annotations

import time

import msgspec
import pytest

from ...delivery import Reject, Release
from ...message import Message
from .client import Client, bodies, fresh
from .rig import Rig, needs


@pytest.mark.trio
class Messages:
    async def test_every_field_of_a_message_arrives_as_it_was_sent(self, rig: Rig) -> None:
        client, name = Client(rig), fresh()
        source = rig.source(name)
        outgoing = client.outgoing(
            source,
            b'{"id": 1}',
            key="clé",
            headers={"tenant": "acme", "größe": "groß 大"},
            content_type="application/json",
            reply_to="answers",
            correlation_id="c-1",
            timestamp=time.time(),
            deadline=time.time() + 3600.125,
        )
        async with client.reading(source) as reader:
            await client.publish(reader.session, [outgoing])
            received, sent = (await reader.take_one()).message, outgoing.message
        for field in ("body", "id", "key", "content_type", "reply_to", "correlation_id", "destination", "attempt"):
            assert getattr(received, field) == getattr(sent, field), field
        assert dict(received.headers) == sent.headers
        assert received.destination == name
        # To the millisecond: there are brokers that have a field of their own for a time.
        assert received.timestamp == pytest.approx(sent.timestamp, abs=0.0011)
        assert received.deadline == pytest.approx(sent.deadline, abs=0.0011)

    async def test_a_field_that_was_not_set_is_not_set_when_it_arrives(self, rig: Rig) -> None:
        source, client = rig.source(fresh()), Client(rig)
        async with client.reading(source) as reader:
            await reader.publish(b"bare", key=None)
            received = (await reader.take_one()).message
        unset = Message(body=received.body, id=received.id, destination=received.destination)
        # A broker may know by itself when a message was sent.
        assert msgspec.structs.replace(received, timestamp=None, headers={}) == msgspec.structs.replace(
            unset, headers={}
        )
        assert dict(received.headers) == {}

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x00", bytes(range(256)), b"\r\n\r\n", b"\xff\xfe no UTF-8", b"null"],
        ids=["empty", "nul", "every-byte", "line-ends", "no-utf-8", "null"],
    )
    async def test_a_body_is_bytes_whatever_they_are(self, rig: Rig, body: bytes) -> None:
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(body)
            assert bodies(await reader.take()) == [body]

    async def test_a_large_body_arrives_whole_and_holds_up_none_behind_it(self, rig: Rig) -> None:
        large = bytes(range(251)) * (rig.largest // 251)
        async with Client(rig).reading(rig.source(fresh())) as reader:
            await reader.publish(large, b"small")
            received = bodies(await reader.take(2))
        # Not compared in the assertion: nobody wants to read that difference.
        assert [len(body) for body in received] == [len(large), 5]
        assert (received[0] == large) is True

    async def test_headers_are_text_under_any_name_also_the_adapters_own(self, rig: Rig) -> None:
        fields = [field.name for field in msgspec.structs.fields(Message)]
        ours = ["_id", "_key", "_type", "_time", "_h:x", "_h:_id", "message_id", "content-type", "Content-Type"]
        headers = {name: f"header {name}" for name in [*fields, *ours, "a b", "ключ", "x" * 200]}
        headers |= {"empty": "", "long": "y" * 4000, "lines": "a\r\nb", "number": "007"}
        async with Client(rig).reading(rig.source(fresh())) as reader:
            (id,) = await reader.publish(b"body", headers=headers)
            received = (await reader.take_one()).message
        assert dict(received.headers) == headers
        assert (received.id, received.body, received.attempt) == (id, b"body", 1)
        assert (received.key, received.content_type, received.deadline) == ("key", None, None)

    @needs(Rig.foreign_publish)
    async def test_messages_of_other_programs_are_read_and_each_has_an_id_that_it_keeps(self, rig: Rig) -> None:
        client, name = Client(rig), fresh()
        source = rig.source(name)
        async with client.reading(source) as reader:
            await rig.foreign_publish(name, b"\x00\xff foreign", {"tenant": "acme"})
            await rig.foreign_publish(name, b"\x00\xff foreign", {"tenant": "acme"})
            first, second = await reader.take(2)
            for message in (first.message, second.message):
                assert message.body == b"\x00\xff foreign"
                assert message.headers["tenant"] == "acme"
                assert (message.destination, message.attempt) == (name, 1)
            assert first.message.id
            assert first.message.id != second.message.id
            await reader.settle(Release(), first)
            again = await reader.take_one()
            assert again.message.id == first.message.id
            await reader.settle(Reject("seen"), again, second)
        async with client.reading(rig.source(f"{name}.rejected")) as reader:
            rejected = await reader.take(2)
        assert {d.message.id for d in rejected} == {first.message.id, second.message.id}
