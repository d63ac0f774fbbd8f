"""A Kafka that is stopped with SIGSTOP: its sockets stay open and nothing answers. Nobody in our process may notice."""

from __future__ import annotations

import confluent_kafka
import pytest
import trio

from runtime import BrokerUnavailable, LinkState, OutcomeUnknown, Runtime

from ..bench.kafka.node import KafkaServer
from ..bench.stalls import watched_loop
from ..bench.waiting import until
from . import frost
from .kafka_place import place
from .place import record_handled

pytestmark = pytest.mark.broker("kafka")

#: Seconds that the loop may do one thing, on a machine that does much else. A call to a client would take a second.
NO_STALL = 0.4


@pytest.fixture
async def frozen(kafka_process: KafkaServer) -> KafkaServer:
    """A Kafka that is about to be frozen, with a topic."""
    await kafka_process.admin.create_topic("orders", 1)
    return kafka_process


@pytest.mark.promise("P1", "P2", "P3")
async def test_the_loop_never_stalls_on_a_frozen_cluster_which_is_degraded_and_found_again(frozen: KafkaServer) -> None:
    here = place(frozen)
    broker = here.broker(publish_limit=2.5, probe_interval=0.5)
    handled = record_handled(broker)
    app = Runtime(broker, grace=1)
    async with watched_loop() as stalls, trio.open_nursery() as nursery:
        await nursery.start(app.serve)
        await broker.publish(0, "orders")
        await until(lambda: handled)
        frozen.freeze()
        assert not await trio.to_thread.run_sync(frozen.answers)

        async def publish(topic: str) -> None:
            with pytest.raises((OutcomeUnknown, BrokerUnavailable)):
                await broker.publish(1, topic)

        async with trio.open_nursery() as publishers:
            for topic in ("orders", "never-seen", "orders"):
                publishers.start_soon(publish, topic)
        await until(lambda: app.status().broker("kafka").state is LinkState.DEGRADED)
        frozen.thaw()
        await broker.publish(2, "orders")
        await until(lambda: 2 in handled)
        await until(lambda: app.status().ready)
        assert app.status().broker("kafka").sessions == 1, "silence alone is no reason to make a group rebalance"
        frozen.freeze()
        app.stop()
    assert stalls.longest < NO_STALL
    frozen.thaw()
    await here.at_rest()


async def test_the_watch_over_the_loop_sees_a_call_to_a_client(frozen: KafkaServer) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": frozen.bootstrap, "log_level": 0})
    frozen.freeze()
    async with watched_loop() as stalls:
        await trio.sleep(0.1)
        with pytest.raises(confluent_kafka.KafkaException):
            producer.list_topics(timeout=1)
        await trio.sleep(0.1)
    assert stalls.longest > NO_STALL
    frozen.kill()


@pytest.mark.promise("P2")
async def test_cancelling_the_scope_around_a_frozen_broker_takes_less_than_a_second(frozen: KafkaServer) -> None:
    await frost.cancel_around_a_frozen_broker(place(frozen))


@pytest.mark.promise("P5")
async def test_a_publish_that_was_sent_into_the_frost_has_an_unknown_outcome(frozen: KafkaServer) -> None:
    await frost.publish_into_the_frost(place(frozen))
    # Unknown it was: the server took it after all, and it was not sent twice.
    assert [record.value() for record in await frozen.admin.records("orders")] == [b"0", b"1", b"2"]
