"""What a user names for Kafka: topics, groups, servers. Each mistake is one clear sentence, and no password is shown."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.kafka import KafkaBroker, Plain, Topic
from runtime import ConfigurationError


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        ((), {}, "a Topic without a name"),
        (("",), {}, "name of a Topic is ''"),
        ((b"orders",), {}, "name of a Topic is b'orders'"),
        (("a b",), {}, "name of a Topic is 'a b'"),
        (("..",), {}, "name of a Topic is '..'"),
        (("^orders.*",), {}, "name of a Topic is '^orders.*'"),
        (("a" * 250,), {}, "name of a Topic is 'aaa"),
        (("a", "a"), {}, "names of a Topic are a, a"),
        (("orders",), {"group": ""}, "group of topic 'orders' is ''"),
        (("orders",), {"group": 5}, "group of topic 'orders' is 5"),
        (("orders",), {"member": ""}, "member of topic 'orders' is ''"),
        (("orders",), {"start": "beginning"}, "start of topic 'orders' is 'beginning'"),
        (("orders",), {"start": -1}, "start of topic 'orders' is -1"),
        (("orders",), {"start": math.inf}, "start of topic 'orders' is inf"),
        (("orders",), {"start": True}, "start of topic 'orders' is True"),
        (("orders",), {"start": datetime(2026, 1, 1)}, "start of topic 'orders' is datetime"),
        (("orders",), {"partition": -1}, "partition of topic 'orders' is -1"),
        (("orders",), {"partition": True}, "partition of topic 'orders' is True"),
    ],
    ids=str,
)
def test_a_topic_that_cannot_work_is_refused_where_it_is_named(
    names: tuple[Any, ...], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Topic(*names, **options)
    assert str(refusal.value).startswith(says)


def test_a_topic_can_be_a_key_of_a_dict_and_cannot_be_changed() -> None:
    assert {Topic("orders", group="billing"): 1}[Topic("orders", group="billing")] == 1
    with pytest.raises(AttributeError):
        Topic("orders").group = "other"  # type: ignore[misc]


def test_several_topics_read_together_have_one_name_for_people() -> None:
    topics = Topic("orders", "returns", group="billing")
    assert (topics.name, str(topics)) == ("orders,returns", "orders,returns/billing")


def test_a_moment_to_start_at_is_counted_in_milliseconds() -> None:
    assert Topic("orders", start=datetime(2026, 1, 1, tzinfo=UTC)).start_ms == 1_767_225_600_000
    assert Topic("orders", start=1.5).start_ms == 1500
    assert Topic("orders", start="latest").start_ms is None


def test_a_string_names_a_topic_of_the_brokers_group() -> None:
    broker = KafkaBroker("localhost:9092", group="billing")
    assert broker.source("orders") == broker.source(Topic("orders")) == Topic("orders", group="billing")
    assert broker.source(Topic("orders", group="audit", start="latest", member="a")) == Topic(
        "orders", group="audit", start="latest", member="a"
    )
    for wrong in (5, None, b"orders"):
        with pytest.raises(ConfigurationError, match="is not a Topic"):
            broker.source(wrong)  # type: ignore[arg-type]


def test_only_a_destination_has_a_partition_and_only_a_source_has_several_topics() -> None:
    broker = KafkaBroker("localhost:9092")
    assert broker.destination(Topic("orders", partition=3)).partition == 3
    with pytest.raises(ConfigurationError, match="the group assigns partitions"):
        broker.source(Topic("orders", partition=3))
    with pytest.raises(ConfigurationError, match="names 2 topics: publish to one"):
        broker.destination(Topic("orders", "returns"))


def servers(url: str, **options: Any) -> str:
    return KafkaBroker(url, **options)._settings.servers


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("localhost:9092", "localhost:9092"),
        ("localhost", "localhost:9092"),
        ("a:1,b:2", "a:1,b:2"),
        ("kafka://a:1,b:2", "a:1,b:2"),
        ("kafka://a, b:2/", "a:9092,b:2"),
        ("[::1]:9092,[::2]", "[::1]:9092,[::2]:9092"),
    ],
)
def test_servers_are_named_bare_or_as_a_url(given: str, meant: str) -> None:
    assert servers(given) == meant


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "names no host"),
        ("kafka://", "names no host"),
        ("a:1,,b:2", "names no host"),
        ("a:x", "the port of 'a:x' is no port"),
        ("a:0", "is no port"),
        ("a:", "is no port"),
        ("a:70000", "is no port"),
        ("kafka://a:1/orders", "ends with its servers"),
        ("kafka://a:1?x=1", "ends with its servers"),
        ("redis://a:1", "does not know redis:// URLs"),
        ("kafka://user@a:1", "has no user and password"),
        ("kafka://[::1:9092", "the host in"),
        (5, "'kafka://5' is not a broker URL|'5' is not a broker URL"),
    ],
    ids=str,
)
def test_servers_that_cannot_be_are_refused_at_once(given: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        KafkaBroker(given)


def test_a_user_in_the_url_is_let_in_by_sasl_plain_and_the_password_is_never_shown() -> None:
    broker = KafkaBroker("kafka://me:s%2Fcret@a:1,b:2")
    assert broker._settings.servers == "a:1,b:2"
    conf = broker._settings.producer("x")
    assert (conf["sasl.username"], conf["sasl.password"], conf["security.protocol"]) == (
        "me",
        "s/cret",
        "SASL_PLAINTEXT",
    )
    assert "cret" not in repr(broker)
    assert "cret" not in broker.safe_url
    assert "cret" not in repr(broker._settings)
    with pytest.raises(ConfigurationError, match="give one of them") as refusal:
        KafkaBroker("kafka://me:secret@a:1", auth=Plain("me", "secret"))
    assert "secret" not in str(refusal.value)
    with pytest.raises(ConfigurationError) as refusal:
        KafkaBroker("kafka://me:sec/ret@a:1")
    assert "sec" not in str(refusal.value)


def test_what_no_broker_can_do_with_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="group of KafkaBroker is ''"):
        KafkaBroker("localhost:9092", group="")
    with pytest.raises(ConfigurationError, match="publish_limit"):
        KafkaBroker("localhost:9092", publish_limit=0)
