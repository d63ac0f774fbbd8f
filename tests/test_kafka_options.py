"""From typed options and free properties to librdkafka's configuration, checked without a client or a thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.kafka import TLS, KafkaBroker, Plain, Scram
from adapters.kafka.options import OWNED, Properties
from runtime import ConfigurationError


def _os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"linger": 5}, "property 'linger' is refused by librdkafka: No such configuration property: \"linger\""),
        ({"linger.ms": "soon"}, "property 'linger.ms' is refused by librdkafka: Invalid value for"),
        ({"linger.ms": 10**9}, "property 'linger.ms' is refused by librdkafka: Configuration property"),
        ({"compression.type": "rar"}, "property 'compression.type' is refused by librdkafka: Invalid value \"rar\""),
        ({"oauth_cb": 5}, "property 'oauth_cb' is refused by confluent-kafka"),
        ({5: 5}, "5 is not the name of a librdkafka property"),
        ({"acks": 1}, "property 'acks' is the runtime's own: a publish returns when all replicas in sync have it"),
        ({"group.id": "x"}, "property 'group.id' is the runtime's own: give it to the Topic or the broker as group"),
    ],
    ids=str,
)
def test_a_wrong_property_is_refused_in_the_librarys_words_before_any_client_is_made(
    properties: dict[Any, Any], says: str
) -> None:
    before = _os_threads(), threading.active_count()
    with pytest.raises(ConfigurationError) as refusal:
        KafkaBroker("localhost:9092", properties=properties)
    assert str(refusal.value).startswith(says)
    assert (_os_threads(), threading.active_count()) == before


@pytest.mark.parametrize("name", OWNED)
def test_what_a_promise_rests_on_cannot_be_changed(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is the runtime's own: "):
        KafkaBroker("localhost:9092", properties={name: 1})


def test_any_other_property_passes_by_its_own_name_to_consumers_and_producers() -> None:
    properties: Properties = {"linger.ms": 3, "session.timeout.ms": 7000, "check.crcs": True, "partitioner": "random"}
    settings = KafkaBroker("localhost:9092", properties=properties)._settings
    for conf in (settings.producer("x"), settings.consumer("x", "g", None)):
        assert conf["linger.ms"] == 3
        assert conf["session.timeout.ms"] == 7000
        assert conf["check.crcs"] == "true"
        assert conf["partitioner"] == "random"


def test_typed_security_options_stand_for_properties(tmp_path: Path) -> None:
    def conf(**options: Any) -> dict[str, Any]:
        found = KafkaBroker("localhost:9092", **options)._settings.producer("x")
        return {name: value for name, value in found.items() if name.startswith(("sasl", "ssl", "security"))}

    assert conf() == {}
    assert conf(tls=True) == {"security.protocol": "SSL"}
    assert conf(auth=Scram("me", "secret")) == {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "secret",
    }
    files = TLS(authorities=tmp_path / "ca.pem", certificate="c.pem", key="k.pem", key_password="p")
    assert conf(auth=Plain("me", "secret"), tls=files) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "secret",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "ssl.certificate.location": "c.pem",
        "ssl.key.location": "k.pem",
        "ssl.key.password": "p",
    }
    with pytest.raises(ConfigurationError, match="given twice"):
        conf(tls=True, properties={"security.protocol": "plaintext"})
    with pytest.raises(ConfigurationError, match="give both, or neither"):
        TLS(certificate="c.pem")
    with pytest.raises(ConfigurationError, match="hash of Scram is 'MD5'"):
        Scram("me", "secret", hash="MD5")  # type: ignore[arg-type]
    for shown in (repr(Plain("me", "secret")), repr(Scram("me", "secret")), repr(TLS(key_password="secret"))):
        assert "secret" not in shown


def test_a_group_is_cooperative_unless_told_otherwise() -> None:
    plain = KafkaBroker("localhost:9092")._settings
    assert plain.consumer("x", "g", "m")["partition.assignment.strategy"] == "cooperative-sticky"
    assert plain.consumer("x", "g", "m")["group.instance.id"] == "m"
    assert "group.instance.id" not in plain.consumer("x", "g", None)
    assert plain.is_incremental
    eager = KafkaBroker("localhost:9092", properties={"partition.assignment.strategy": "range"})._settings
    assert not eager.is_incremental
    new = KafkaBroker("localhost:9092", properties={"group.protocol": "consumer"})._settings
    assert new.is_incremental
    assert "partition.assignment.strategy" not in new.consumer("x", "g", None)
