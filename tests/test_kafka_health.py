"""What a client's statistics and events say: well, unreachable, silent, refused."""

from __future__ import annotations

import json
from typing import Any

from confluent_kafka import KafkaError

from adapters.kafka.health import Health
from adapters.kafka.lease import Place


def statistics(*servers: dict[str, Any], topics: dict[str, Any] | None = None) -> str:
    return json.dumps(
        {"name": "x", "brokers": {str(number): server for number, server in enumerate(servers)}, "topics": topics or {}}
    )


UP = {"state": "UP", "nodeid": 1, "rxidle": 100, "waitresp_cnt": 0}
ASKED = {**UP, "waitresp_cnt": 1}
SILENT = {**ASKED, "rxidle": 8_000_000}
DOWN = {"state": "DOWN", "nodeid": 1, "rxidle": -1, "waitresp_cnt": 0}


def test_one_server_that_answers_is_enough() -> None:
    health = Health()
    for servers in ((UP,), (ASKED,), (SILENT, UP), (DOWN, UP), ({**SILENT, "waitresp_cnt": 0},)):
        health.on_statistics(statistics(*servers))
        assert _complaint(health) is None


def _complaint(health: Health) -> str | None:
    return health.complaint


def test_servers_that_owe_an_answer_for_long_make_the_cluster_silent_until_one_answers() -> None:
    health = Health()
    health.on_statistics(statistics(SILENT, DOWN))
    assert _complaint(health) == "no server of the cluster has answered for 8 s"
    health.on_statistics(statistics(ASKED, DOWN))
    assert _complaint(health) is None


def test_all_servers_down_is_told_with_the_reason_until_one_is_up() -> None:
    health = Health()
    health.on_statistics(statistics(DOWN))
    assert _complaint(health) is None  # a client that never tried knows nothing
    health.on_error(KafkaError(KafkaError._TRANSPORT, "Connect to ipv4#10.0.0.1:9092 failed: Connection refused"))
    health.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    said = "no server of the cluster can be reached: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"
    assert _complaint(health) == said
    health.on_statistics(statistics(DOWN))
    assert _complaint(health) == said
    health.on_statistics(statistics(UP, DOWN))
    assert _complaint(health) is None


def test_a_refusal_and_a_fatal_error_are_told_apart() -> None:
    health = Health()
    health.on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
    assert _troubles(health) == (True, False)
    health.on_error(KafkaError(KafkaError._FATAL, "fenced", True))
    assert _troubles(health) == (True, True)


def _troubles(health: Health) -> tuple[bool, bool]:
    return health.refused is not None, health.fatal is not None


def test_lag_counts_from_what_was_read_else_from_what_was_committed() -> None:
    def partition(**offsets: int) -> dict[str, int]:
        return {"hi_offset": -1001, "app_offset": -1001, "committed_offset": -1001, "lo_offset": -1001, **offsets}

    health = Health()
    partitions = {
        "0": partition(hi_offset=10, app_offset=7, committed_offset=3),
        "1": partition(hi_offset=10, committed_offset=3),
        "2": partition(hi_offset=10, lo_offset=2),
        "3": partition(hi_offset=10),
        "4": partition(app_offset=7),
        "-1": partition(),
    }
    health.on_statistics(statistics(UP, topics={"orders": {"partitions": partitions}}))
    assert health.lags == {Place("orders", 0): 3, Place("orders", 1): 7, Place("orders", 2): 8}
