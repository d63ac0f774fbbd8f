"""RabbitMQ on a real server: queues, exchanges, what becomes of messages, and what an error hurts."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pika
import pytest
import trio

from adapters.rabbitmq import Exchange, Queue, RabbitBroker
from adapters.rabbitmq.routing import route
from adapters.rabbitmq.session import RabbitSession
from runtime import Message, OutcomeUnknown, Rejected, Runtime, Unroutable
from runtime.adapter import Outgoing, Settlement
from runtime.delivery import ACK, Delivery, Outcome, Reject, Release
from runtime.dial import Dialer
from runtime.subscription import SubscriptionState

from .bench.rabbit import Vhost
from .bench.waiting import until

pytestmark = pytest.mark.broker("rabbitmq")


@asynccontextmanager
async def a_session(rabbit: Vhost) -> AsyncIterator[RabbitSession]:
    """The contract's own words, without a runtime on top."""
    with trio.fail_after(20):
        async with RabbitBroker(rabbit.url).open_session("test", Dialer()) as session:
            assert isinstance(session, RabbitSession)
            yield session


def outgoing(destination: Queue | Exchange, body: bytes = b"1", **fields: Any) -> Outgoing:
    fields.setdefault("id", "a")
    return Outgoing(Message(body=body, destination=destination.name, **fields), destination)


async def settle(session: RabbitSession, outcome: Outcome, *deliveries: Delivery) -> Sequence[Exception | None]:
    return await session.settle([Settlement(delivery, outcome) for delivery in deliveries])


def source(session: RabbitSession, queue: Queue, prefetch: int = 10) -> Any:
    return session.open_source(queue, {}, lambda delivery: None, again=False, prefetch=prefetch)


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_message_comes_back_whole(rabbit: Vhost, kind: Any) -> None:
    queue = Queue("orders", type=kind)
    sent = Message(
        body=b"\x00\xff",
        id="an id",
        destination="orders",
        key="ключ",
        headers={"tenant": "acme", "_key": "mine", "long" * 40: "x" * 1000},
        content_type="application/json",
        reply_to="answers",
        correlation_id="c",
        timestamp=1700000000.25,
        deadline=1700000060.5,
    )
    async with a_session(rabbit) as session, source(session, queue) as receiver:
        assert await session.publish([Outgoing(sent, queue)]) == [None]
        [delivery] = await receiver.receive(10)
        assert delivery.message == sent
        assert await settle(session, ACK, delivery) == [None]
    assert rabbit.ready("orders") == 0


@pytest.mark.parametrize("size", [0, 1, 128 * 1024 - 8, 128 * 1024 - 7, 5 * 1024 * 1024])
async def test_a_body_of_any_size_travels(rabbit: Vhost, size: int) -> None:
    body = bytes(itertools.islice(itertools.cycle(range(251)), size))
    async with a_session(rabbit) as session, source(session, Queue("bodies")) as receiver:
        assert (
            await session.publish([outgoing(Queue("bodies"), body), outgoing(Queue("bodies"), b"next")]) == [None] * 2
        )
        bodies: list[bytes] = []
        while len(bodies) < 2:
            bodies += [delivery.message.body for delivery in await receiver.receive(10)]
        assert bodies == [body, b"next"]


async def test_names_that_are_not_ascii_are_names(rabbit: Vhost) -> None:
    exchange = Exchange("wölfe" * 20, "topic")
    queue = Queue("очередь (1)~", bindings=[exchange.binding("ключ.*")])
    async with a_session(rabbit) as session, source(session, queue) as receiver:
        assert await session.publish([outgoing(exchange, key="ключ.1"), outgoing(queue)]) == [None, None]
        received: list[Delivery] = []
        while len(received) < 2:
            received += await receiver.receive(10)
        assert {delivery.message.key for delivery in received} == {"ключ.1", None}


async def test_what_another_program_sent_is_read_as_well_as_it_can_be(rabbit: Vhost) -> None:
    with rabbit.channel() as channel:
        channel.queue_declare("orders", durable=True)
        channel.basic_publish("", "orders", b"1")
        channel.basic_publish(
            "", "orders", b"2", pika.BasicProperties(headers={"n": 5, "t": {"a": [1]}}, message_id="x", priority=200)
        )
        channel.basic_publish("amq.topic", "orders.created", b"3")
    async with a_session(rabbit) as session, source(session, Queue("orders")) as receiver:
        received: list[Delivery] = []
        while len(received) < 2:
            received += await receiver.receive(10)
    first, second = (delivery.message for delivery in received)
    assert (first.body, first.key, first.headers, first.attempt) == (b"1", None, {}, 1)
    assert len(first.id) == 32
    assert (second.id, second.headers) == ("x", {"n": "5", "t": '{"a":[1]}'})


async def test_a_message_that_amqp_has_no_room_for_is_refused_and_its_neighbours_are_not(rabbit: Vhost) -> None:
    orders = Queue("orders")
    async with a_session(rabbit) as session:
        results = await session.publish(
            [
                outgoing(orders),
                outgoing(orders, id="x" * 256),
                outgoing(orders, headers={"x" * 256: ""}),
                outgoing(orders, headers={"x": "y" * 200_000}),
                outgoing(Exchange("amq.direct"), key="x" * 256),
                outgoing(orders),
            ]
        )
    assert results[0] is results[5] is None
    for error, says in zip(
        results[1:5], ["its message_id is 256", "header name is 256", "headers are", "routing key is 256"], strict=True
    ):
        assert isinstance(error, Rejected)
        assert says in str(error)
    assert rabbit.ready("orders") == 2


# ---- routing ---------------------------------------------------------------------------------------------------------


async def test_the_routing_function_agrees_with_the_server(rabbit: Vhost) -> None:
    topic, direct = Exchange("t", "topic", mandatory=False), Exchange("d", mandatory=False)
    fanout, headers = Exchange("f", "fanout", mandatory=False), Exchange("h", "headers", mandatory=False)
    words = ["", "a", "b", "a.b", "a.b.c", "a.", ".", "b.a", "a.b.b.c", "a..b"]
    patterns = ["", "#", "*", "a.*", "a.#", "#.c", "*.b.*", "a.#.c", "#.#", "*.#", "a.b", ".", "*.*", "#.*", "a.*.b"]
    tables = [{"p": "1"}, {"p": "1", "q": "2"}, {"p": "2", "q": "2"}]
    queues = [
        *(Queue(f"topic {i}", bindings=[topic.binding(pattern)]) for i, pattern in enumerate(patterns)),
        *(Queue(f"direct {i}", bindings=[direct.binding(key)]) for i, key in enumerate(words)),
        Queue("fanout", bindings=[fanout]),
        Queue("twice", bindings=[topic.binding("a.#"), topic.binding("#.b"), direct.binding("a")]),
        *(
            Queue(f"headers {i} {match}", bindings=[headers.binding(headers=table, match=match)])
            for i, table in enumerate(tables)
            for match in ("all", "any")
        ),
    ]
    numbers = itertools.count()
    sent = [
        *(outgoing(exchange, id=str(next(numbers)), key=key) for exchange in (topic, direct, fanout) for key in words),
        *(outgoing(headers, id=str(next(numbers)), headers=table) for table in [{}, {"q": "2"}, *tables, {"z": "0"}]),
        outgoing(queues[0], id="by name"),
    ]
    async with a_session(rabbit) as session:
        for queue in queues:
            async with source(session, queue):
                pass
        assert await session.publish(sent) == [None] * len(sent)
    found: dict[str, list[str]] = {}
    with rabbit.channel() as channel:
        for queue in queues:
            found[queue.name] = []
            while (answer := channel.basic_get(queue.name, auto_ack=True))[0] is not None:
                found[queue.name].append(str(answer[1].message_id))
    expected: dict[str, list[str]] = {queue.name: [] for queue in queues}
    for item in sent:
        for queue in route(queues, item.source, item.message):
            expected[queue.name].append(item.message.id)
    # Each exchange has a channel of its own, so their order among each other says nothing.
    assert {name: sorted(ids) for name, ids in found.items()} == {name: sorted(ids) for name, ids in expected.items()}


# ---- publishing ------------------------------------------------------------------------------------------------------


async def test_unroutable_is_said_of_exactly_the_message_that_nobody_gets(rabbit: Vhost) -> None:
    events = Exchange("events", "headers")  # so that nothing but the id tells one from the other
    billing = Queue("billing", bindings=[events.binding(headers={"paid": "yes"})])
    async with a_session(rabbit) as session, source(session, billing):
        batch = [outgoing(events, id=str(n), headers={"paid": "yes" if n % 3 else "no"}) for n in range(30)]
        results = await session.publish([*batch, outgoing(replace(events, mandatory=False), headers={"paid": "no"})])
    for number, error in enumerate(results[:-1]):
        assert (error is None) == bool(number % 3)
        assert error is None or (isinstance(error, Unroutable) and f"message {number} " in str(error))
    assert results[-1] is None


async def test_a_deleted_queue_is_unroutable_once_and_declared_again_for_the_next_publish(rabbit: Vhost) -> None:
    async with a_session(rabbit) as session:
        assert await session.publish([outgoing(Queue("orders"))]) == [None]
        with rabbit.channel() as channel:
            channel.queue_delete("orders")
        [error] = await session.publish([outgoing(Queue("orders"))])
        assert isinstance(error, Unroutable)
        assert await session.publish([outgoing(Queue("orders"))]) == [None]


async def test_a_deleted_exchange_refuses_its_messages_and_no_others(rabbit: Vhost) -> None:
    events, orders = Exchange("events", "fanout", mandatory=False), Queue("orders")
    async with a_session(rabbit) as session:
        assert await session.publish([outgoing(events), outgoing(orders)]) == [None, None]
        with rabbit.channel() as channel:
            channel.exchange_delete("events")
        results = await session.publish([outgoing(events), outgoing(orders), outgoing(events), outgoing(orders)])
        refused = [results[0], results[2]]
        assert all(isinstance(error, Rejected) and "no exchange 'events'" in str(error) for error in refused)
        assert results[1] is results[3] is None
        assert await session.publish([outgoing(events)]) == [None]  # declared again
    assert rabbit.ready("orders") == 3


@pytest.mark.promise("P5")
async def test_of_messages_on_a_closed_channel_only_what_may_have_arrived_is_unknown(rabbit: Vhost) -> None:
    # Among messages to queues only one that is too large closes the channel; the limit is the server's own.
    await rabbit.server.ctl("eval", "application:set_env(rabbit, max_message_size, 1000).")
    try:
        async with a_session(rabbit) as session:
            orders = Queue("orders")
            bodies = [b"1", b"2", b"x" * 2000, b"3", b"4"]
            results = await session.publish([outgoing(orders, body) for body in bodies])
    finally:
        await rabbit.server.ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")
    assert all(error is None or isinstance(error, OutcomeUnknown) for error in results[:2])
    assert isinstance(results[2], Rejected)
    assert "larger than" in str(results[2])
    assert results[3] is results[4] is None
    assert rabbit.take("orders")[-2:] == [b"3", b"4"]


async def test_a_full_queue_rejects(rabbit: Vhost) -> None:
    small = Queue("small", max_length=1, overflow="reject-publish")
    async with a_session(rabbit) as session:
        assert await session.publish([outgoing(small)]) == [None]
        [error] = await session.publish([outgoing(small)])
        assert isinstance(error, Rejected)
        assert "full" in str(error)


async def test_priority_and_expiration_and_persistence_reach_the_server(rabbit: Vhost) -> None:
    urgent = Queue("urgent", max_priority=5)
    async with a_session(rabbit) as session:
        sent = [(replace(urgent, priority=number), str(number)) for number in (1, 5, 3)]
        sent.append((replace(urgent, expiration=0.0), "gone"))
        await session.publish([outgoing(queue, id=id) for queue, id in sent])
        await session.publish([outgoing(Queue("light", persistent=False, expiration=60))])
        async with source(session, urgent) as receiver:
            received: list[Delivery] = []
            while len(received) < 3:
                received += await receiver.receive(10)
    assert [delivery.message.id for delivery in received] == ["5", "3", "1"]
    with rabbit.channel() as channel:
        _, properties, _ = channel.basic_get("light")
        assert properties is not None
        assert (properties.delivery_mode, properties.expiration) == (1, "60000")


async def test_a_publish_to_a_queue_that_is_otherwise_is_that_publishs_error(rabbit: Vhost) -> None:
    with rabbit.channel() as channel:
        channel.queue_declare("orders", durable=True)
    async with a_session(rabbit) as session:
        batch = [
            outgoing(Queue("orders", type="quorum")),
            outgoing(Queue("orders")),
            outgoing(Exchange("amq.direct", "fanout")),
        ]
        refused, done, unroutable = await session.publish(batch)
    assert isinstance(refused, Rejected)
    assert "PRECONDITION_FAILED" in str(refused)
    assert done is None
    assert isinstance(unroutable, Unroutable)  # the server's own exchanges are taken as they are


async def test_a_queue_named_by_its_bare_name_is_taken_as_it_is_found(rabbit: Vhost) -> None:
    events = Exchange("events", "fanout")
    with rabbit.channel() as channel:
        channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 7})
    async with a_session(rabbit) as session, source(session, Queue("orders", bindings=[events])) as receiver:
        assert await session.publish([outgoing(Queue("orders"))]) == [None]
        assert await session.publish([outgoing(events)]) == [None]
        assert await receiver.receive(1)


# ---- settling --------------------------------------------------------------------------------------------------------


async def test_an_ack_has_arrived_when_settle_returns(rabbit: Vhost) -> None:
    rabbit.add_numbers("orders", 20)
    async with a_session(rabbit) as session, source(session, Queue("orders"), prefetch=20) as receiver:
        received: list[Delivery] = []
        while len(received) < 20:
            received += await receiver.receive(20)
        # Gaps, so that not all of it is one ack of many.
        assert await settle(session, ACK, *received[:5], *received[7:9], received[11]) == [None] * 8
        assert await rabbit.unacked("orders") == 12
        assert await settle(session, ACK, *received[5:7], *received[9:11], *received[12:19]) == [None] * 11
        assert await rabbit.unacked("orders") == 1
    assert rabbit.take("orders") == [b"19"]


async def test_no_more_than_prefetch_is_ever_taken(rabbit: Vhost) -> None:
    rabbit.add_numbers("orders", 50)
    async with a_session(rabbit) as session, source(session, Queue("orders"), prefetch=7) as receiver:
        received = list(await receiver.receive(3))
        while len(received) < 7:
            received += await receiver.receive(7 - len(received))
        assert await rabbit.unacked("orders") == 7
        await settle(session, Release(after=60), received[0])
        assert await rabbit.unacked("orders") == 7  # what waits here is unsettled there


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_release_comes_back_after_its_delay_with_one_attempt_more_if_it_counts(
    rabbit: Vhost, kind: Any
) -> None:
    queue = Queue("orders", type=kind)
    async with a_session(rabbit) as session, source(session, queue) as receiver:
        await session.publish([outgoing(queue)])
        attempts = []
        for release in (Release(0.05), Release(0.05, counted=False), Release(0.05), Release(0.0), Release(0.05)):
            [delivery] = await receiver.receive(1)
            attempts.append(delivery.message.attempt)
            began = trio.current_time()
            assert await settle(session, release, delivery) == [None]
        [delivery] = await receiver.receive(1)
        assert trio.current_time() - began >= 0.05
        attempts.append(delivery.message.attempt)
    # What is released waits here and is counted here, with a delay or without: a classic queue could not.
    assert attempts == [1, 2, 2, 3, 4, 5]


async def test_a_rejected_message_is_set_aside_with_its_reason(rabbit: Vhost) -> None:
    async with a_session(rabbit) as session, source(session, Queue("orders")) as receiver:
        await session.publish([outgoing(Queue("orders"), b"poison", headers={"tenant": "acme"}, key="k")])
        [delivery] = await receiver.receive(1)
        assert await settle(session, Reject("x" * 200_000), delivery) == [None]
        async with source(session, Queue("orders.rejected")) as aside:
            [copy] = await aside.receive(1)
    assert copy.message.body == b"poison"
    assert copy.message.key == "k"
    assert copy.message.headers == {
        "tenant": "acme",
        "rejected-reason": "x" * 1000,
        "rejected-from": "orders",
        "rejected-attempt": "1",
    }
    assert rabbit.ready("orders") == 0


async def test_a_queues_own_dead_letter_exchange_gets_what_is_rejected(rabbit: Vhost) -> None:
    dead = Exchange("dead", "fanout")
    queue = Queue("orders", dead_letter_exchange=dead)
    async with a_session(rabbit) as session, source(session, queue) as receiver:
        async with source(session, Queue("graves", bindings=[dead])) as graves:
            await session.publish([outgoing(queue, b"poison")])
            [delivery] = await receiver.receive(1)
            assert await settle(session, Reject("why not"), delivery) == [None]
            [found] = await graves.receive(1)
    assert found.message.body == b"poison"
    assert '"queue":"orders"' in found.message.headers["x-death"]


async def test_a_message_that_cannot_be_set_aside_is_tried_again(rabbit: Vhost) -> None:
    with rabbit.channel() as channel:
        limit = {"x-max-length": 0, "x-overflow": "reject-publish"}
        channel.queue_declare("orders.rejected", durable=True, arguments=limit)
    rabbit.add_numbers("orders", 2)
    async with a_session(rabbit) as session, source(session, Queue("orders")) as receiver:
        received: list[Delivery] = []
        while len(received) < 2:
            received += await receiver.receive(2)
        batch = [Settlement(received[0], Reject("poison")), Settlement(received[1], ACK)]
        refused, done = await session.settle(batch)
        assert isinstance(refused, Rejected)
        assert done is None
        [again] = await receiver.receive(2)
        assert again.message.body == b"0"
        assert again.receipt != received[0].receipt


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_cancelled_receive_gives_back_at_once_what_was_not_received(rabbit: Vhost, kind: Any) -> None:
    queue = Queue("orders", type=kind)
    async with a_session(rabbit) as session, source(session, queue, prefetch=5) as receiver:
        await session.publish([outgoing(queue, str(number).encode()) for number in range(10)])
        received = list(await receiver.receive(2))
        while len(received) < 2:
            received += await receiver.receive(2 - len(received))
        with trio.CancelScope() as scope:
            scope.cancel()
            await receiver.receive(1)
        # A quorum queue comes to know a little later than the channel.
        await until(lambda: rabbit.ready("orders") == 8)
        order = [2, 3, 4, 5, 6, 7, 8, 9] if kind == "classic" else [5, 6, 7, 8, 9, 2, 3, 4]
        assert rabbit.take("orders") == [str(number).encode() for number in order]
        assert await settle(session, ACK, received[0]) == [None]
        await settle(session, Release(after=60), received[1])  # nobody would take it up again here
        await until(lambda: rabbit.take("orders") == [b"1"])


# ---- what an error hurts ---------------------------------------------------------------------------------------------


@pytest.mark.promise("P1")
async def test_a_queue_that_is_otherwise_fails_its_subscription_and_no_other(
    rabbit: Vhost, caplog: pytest.LogCaptureFixture
) -> None:
    with rabbit.channel() as channel:
        channel.queue_declare("bad", durable=True)
    broker = RabbitBroker(rabbit.url)
    handled: list[int] = []

    @broker.subscriber("good")
    async def good(number: int) -> None:
        handled.append(number)

    @broker.subscriber(Queue("bad", type="quorum"))
    async def bad(number: int) -> None: ...

    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().broker("amqp").subscriptions[1].state is SubscriptionState.FAILING)
        assert "PRECONDITION_FAILED" in str(app.status().broker("amqp").subscriptions[1].error)
        await broker.publish(1, "good")
        await until(lambda: handled == [1])
        with rabbit.channel() as channel:
            channel.queue_delete("bad")
        await until(lambda: app.status().ready, within=5)
        assert app.status().broker("amqp").sessions == 1
    assert len([r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]) == 1


async def test_a_deleted_queue_is_consumed_from_again(rabbit: Vhost) -> None:
    broker = RabbitBroker(rabbit.url)
    handled: list[int] = []

    @broker.subscriber("orders")
    async def handle(number: int) -> None:
        handled.append(number)

    app = Runtime(broker)
    async with app.open():
        await until(lambda: app.status().ready)
        with rabbit.channel() as channel:
            channel.queue_delete("orders")
        await until(lambda: app.status().broker("amqp").subscriptions[0].state is SubscriptionState.FAILING)
        await until(lambda: app.status().ready, within=10)
        await broker.publish(1, "orders")
        await until(lambda: handled == [1])
        assert app.status().broker("amqp").sessions == 1


async def test_channels_are_used_again(rabbit: Vhost) -> None:
    async with a_session(rabbit) as session:
        for _ in range(100):
            async with source(session, Queue("orders")):
                pass
        assert len(session._consuming._channels) < 6


async def test_a_lost_delivery_is_settled_by_nobody(rabbit: Vhost) -> None:
    rabbit.add_numbers("orders", 1)
    lost: list[Delivery] = []
    held: dict[Any, Delivery] = {}
    async with a_session(rabbit) as session:
        async with session.open_source(Queue("orders"), held, lost.append, again=False, prefetch=1) as receiver:
            [delivery] = await receiver.receive(1)
            held[delivery.receipt] = delivery
        assert lost == [delivery]
        [error] = await settle(session, ACK, delivery)
        assert error is not None
        async with source(session, Queue("orders")) as receiver:
            [again] = await receiver.receive(1)
            assert again.message.attempt == 2
            await settle(session, ACK, again)
