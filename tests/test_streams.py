"""What a user names for Redis: streams, groups and URLs. Each mistake is one clear sentence, and no password is shown."""

from __future__ import annotations

import math
import ssl
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.redis import RedisBroker, Stream
from adapters.redis.connection import Address
from runtime import ConfigurationError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": ""}, "name of a Stream is ''"),
        ({"name": b"orders"}, "name of a Stream is b'orders'"),
        ({"group": ""}, "group of stream 'orders' is ''"),
        ({"group": 5}, "group of stream 'orders' is 5"),
        ({"start": "middle"}, "start of stream 'orders' is 'middle'"),
        ({"lease": 0}, "lease of stream 'orders' is 0"),
        ({"lease": "30"}, "lease of stream 'orders' is '30'"),
        ({"lease": math.inf}, "lease of stream 'orders' is inf"),
        ({"poll": -1}, "poll of stream 'orders' is -1"),
        ({"poll": math.nan}, "poll of stream 'orders' is nan"),
        ({"maxlen": 0}, "maxlen of stream 'orders' is 0"),
        ({"maxlen": 10.5}, "maxlen of stream 'orders' is 10.5"),
        ({"maxlen": True}, "maxlen of stream 'orders' is True"),
        ({"maxage": 0}, "maxage of stream 'orders' is 0"),
        ({"maxage": math.inf}, "maxage of stream 'orders' is inf"),
        ({"maxlen": 10, "maxage": 10}, "stream 'orders' has both maxlen and maxage"),
    ],
    ids=str,
)
def test_a_stream_that_cannot_work_is_refused_where_it_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Stream(**{"name": "orders"} | options)
    assert str(refusal.value).startswith(f"{says}:")


def test_a_stream_can_be_a_key_of_a_dict() -> None:
    assert {Stream("orders", group="billing"): 1}[Stream("orders", group="billing")] == 1


def test_a_string_names_a_stream_of_the_brokers_group() -> None:
    broker = RedisBroker("redis://localhost", group="billing")
    assert broker.source("orders") == broker.source(Stream("orders")) == Stream("orders", group="billing")
    assert broker.source(Stream("orders", group="audit", lease=5)) == Stream("orders", group="audit", lease=5)
    assert str(broker.source("orders")) == "orders/billing"
    for wrong in (5, None, b"orders"):
        with pytest.raises(ConfigurationError, match="is not a Stream"):
            broker.source(wrong)  # type: ignore[arg-type]


def address(url: str, **options: Any) -> Address:
    return RedisBroker(url, **options)._address


def test_a_url_says_where_the_server_is_and_how_to_be_let_in() -> None:
    plain = {"path": None, "database": 0, "username": None, "password": None, "tls": None}
    local: dict[str, Any] = {**plain, "host": "localhost", "port": 6379}
    assert address("redis://localhost") == Address(**local)
    assert address("redis://localhost:7000/3/") == Address(**local | {"port": 7000, "database": 3})
    assert address("redis://[::1]:7000") == Address(**local | {"host": "::1", "port": 7000})
    login = {"username": "ada", "password": "p@ss/word"}
    assert address("redis://ada:p%40ss%2Fword@localhost") == Address(**local | login)
    assert address("redis://:secret@localhost") == Address(**local | {"password": "secret"})
    unix = {"host": "", "path": "/run/my redis.sock"}
    assert address("unix:///run/my%20redis.sock?db=3") == Address(**local | unix | {"database": 3})
    assert address("unix://:secret@/run/my%20redis.sock") == Address(**local | unix | {"password": "secret"})


def test_rediss_means_tls_with_the_systems_authorities_or_the_users() -> None:
    default = address("rediss://localhost").tls
    assert default is not None
    assert default.verify_mode is ssl.CERT_REQUIRED
    assert default.check_hostname
    own = ssl.create_default_context()
    assert address("rediss://localhost", tls=own).tls is own
    for url in ("redis://localhost", "unix:///run/redis.sock"):
        with pytest.raises(ConfigurationError, match="write rediss:// to use TLS"):
            RedisBroker(url, tls=own)


WRONG_URLS: list[tuple[Any, str]] = [
    (None, "'None' is not a broker URL: write it like redis://host:port"),
    ("localhost:6379", "'localhost:6379' is not a broker URL"),
    ("ada:secret@localhost:6379", "is not a broker URL"),
    (b"redis://ada:secret@localhost", "is not a broker URL"),
    ("http://ada:secret@localhost", "RedisBroker does not know http:// URLs: give it redis:// or rediss:// or unix://"),
    ("redis://", "'redis://' names no host"),
    ("redis://:secret@:6379/0", "'***@:6379/0' names no host"),
    ("redis://localhost:6379:6380", "the port in 'redis://localhost:6379:6380' is no port"),
    ("redis://localhost:0", "the port in 'redis://localhost:0' is no port: give 1 to 65535"),
    ("redis://localhost:65536", "the port in 'redis://localhost:65536' is no port"),
    ("redis://ada:secret@localhost:x", "the port in '***@localhost:x' is no port"),
    ("redis://ada:pass/secret@localhost", "write / ? # in a password as %2F %3F %23"),
    ("redis://ada:pass#secret@localhost", "write / ? # in a password as %2F %3F %23"),
    ("redis://ada:1234/secret@localhost", "the database in '***@localhost' is no number"),
    ("redis://ada:1234?secret@localhost", "a Redis URL ends with its database, and '***@localhost' goes on"),
    ("redis://ada:secret@[::1", "the host in '***@[::1' is not one"),
    ("redis://localhost/orders", "the database in 'redis://localhost/orders' is no number"),
    ("redis://localhost/-1", "the database in 'redis://localhost/-1' is no number"),
    ("redis://localhost?timeout=5", "'redis://localhost?timeout=5' goes on: options are arguments here"),
    ("redis://localhost/0#x", "'redis://localhost/0#x' goes on"),
    ("unix://", "a unix:// URL names an absolute path"),
    ("unix://run/redis.sock", "a unix:// URL names an absolute path: write it like unix:///run/redis.sock"),
    ("unix:///run/redis.sock?timeout=5", "'unix:///run/redis.sock?timeout=5' goes on"),
    ("unix:///run/redis.sock?db=x", "the database in 'unix:///run/redis.sock?db=x' is no number"),
]


@pytest.mark.parametrize(("url", "says"), WRONG_URLS, ids=[str(url) for url, _ in WRONG_URLS])
def test_a_wrong_url_is_refused_in_one_sentence_without_its_password(url: Any, says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        RedisBroker(url)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("/?#@:[]%1ax.=", max_size=12), st.text("/?#@:[]%1ax.=", max_size=12))
def test_whatever_is_written_around_a_password_nothing_ever_shows_it(before: str, after: str) -> None:
    url = f"redis://{before}:SECRET{after}@localhost"
    try:
        broker = RedisBroker(url)
    except ConfigurationError as error:
        shown = str(error)
    else:
        shown = f"{broker!r} {broker.safe_url} {broker._address!r} {broker._address}"
    assert "SECRET" not in shown


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://localhost:6379/3", "redis://localhost:6379/3"),
        ("redis://:secret@localhost:6379/3", "redis://:***@localhost:6379/3"),
        ("redis://ada:secret@localhost", "redis://ada:***@localhost"),
        ("rediss://ada:se%40cret@[::1]:7000", "rediss://ada:***@[::1]:7000"),
        ("unix://:secret@/run/redis.sock?db=3", "unix://:***@/run/redis.sock?db=3"),
    ],
)
def test_the_safe_url_is_the_url_without_the_password(url: str, safe: str) -> None:
    broker = RedisBroker(url)
    assert broker.safe_url == safe
    assert repr(broker) == f"RedisBroker({safe!r})"
    assert "cret" not in repr(broker._address)


@pytest.mark.parametrize("option", ["publish_limit", "connect_limit", "probe_interval"])
@pytest.mark.parametrize("value", [0, -1, math.nan, "5"])
def test_a_limit_is_in_seconds_above_zero(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{option} of RedisBroker is "):
        RedisBroker("redis://localhost", **{option: value})


@pytest.mark.promise("P4")
def test_a_broker_is_made_without_asking_whether_there_is_one() -> None:
    assert RedisBroker("redis://no-such-host.invalid:1").name == "redis"
