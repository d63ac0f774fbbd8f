"""Every example runs as its own first lines say, ends by itself, and prints what it promises."""

from __future__ import annotations

import ast
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from .bench.command import Worker, command
from .bench.kafka.node import KafkaServer
from .bench.servers import RedisServer
from .bench.waiting import until_told

BILLED = re.compile(r"^order +(\d+) of (\w+) +billed, attempt (\d)$", re.MULTILINE)
SENT = re.compile(r"^ +invoice for order +(\d+): +([\d.]+) to (\w+)$", re.MULTILINE)
CUSTOMERS = ("ada", "grace", "edsger")


async def output_of(*words: str, folder: Path) -> str:
    async with command(sys.executable, "-m", *words, folder=folder) as running:
        status, _ = await running.ends(within=20)
    assert status == 0, running.output
    return running.output


def assert_all_billed(output: str) -> None:
    """Every order once, order 5 at its second attempt, and each customer's in order."""
    billed = [(int(order), customer, int(attempt)) for order, customer, attempt in BILLED.findall(output)]
    assert sorted(billed) == [(n, CUSTOMERS[n % 3], 2 if n == 5 else 1) for n in range(1, 13)]
    for customer in CUSTOMERS:
        orders = [order for order, name, _ in billed if name == customer]
        assert orders == sorted(orders)
    sent = [(int(order), float(due), customer) for order, due, customer in SENT.findall(output)]
    assert sorted(sent) == [(n, round(9.5 * n * 1.19, 2), CUSTOMERS[n % 3]) for n in range(1, 13)]
    # The one failure that is meant to be seen.
    assert output.count("Traceback") == output.count("ConnectionError: the tax service is away") == 1
    assert "stopping: every order is billed" in output
    assert "stopped: clean" in output


def assert_measured(output: str, broker: str) -> None:
    """Started before there was a connection, and every reading arrived; whose came first is nobody's promise."""
    started, measured = output.splitlines()
    assert started == f"started: {broker} is connecting"
    assert ast.literal_eval(measured.removeprefix("measured: ")) == {"kitchen": 21.0, "attic": 21.0}


async def test_orders_on_the_embedded_broker(tmp_path: Path) -> None:
    assert_all_billed(await output_of("runtime", "run", "examples.orders", folder=tmp_path))


@pytest.mark.broker
async def test_orders_on_redis(redis_process: RedisServer, tmp_path: Path) -> None:
    words = ("runtime", "run", "examples.orders", "--broker", redis_process.url)
    assert_all_billed(await output_of(*words, folder=tmp_path))
    with redis_process.client() as client:
        assert client.xlen("orders") == client.xlen("invoices") == 12
        assert client.xpending("orders", "default")["pending"] == 0


async def test_embedded_on_the_embedded_broker(tmp_path: Path) -> None:
    assert_measured(await output_of("examples.embedded", folder=tmp_path), "memory")


@pytest.mark.broker
async def test_embedded_on_redis(redis_process: RedisServer, tmp_path: Path) -> None:
    assert_measured(await output_of("examples.embedded", redis_process.url, folder=tmp_path), "redis")


@pytest.fixture
async def web(kafka_to_come: KafkaServer, tmp_path: Path) -> AsyncIterator[tuple[Worker, str]]:
    """The web application, whose Kafka is not there, and its address. It served within a second of its start."""
    words = (sys.executable, "-m", "examples.web", kafka_to_come.bootstrap, "0")
    async with command(*words, folder=tmp_path) as running:
        await running.says("Running on http://")
        yield running, re.findall(r"Running on (http://\S+)", running.output)[0]


async def ask(url: str, order: dict[str, float] | None = None) -> tuple[int, Any]:
    """Status and body of an answer, which came within a second, or in two more if it had to wait for a publish."""

    def fetch() -> tuple[int, Any]:
        body = None if order is None else json.dumps(order).encode()
        try:
            with urllib.request.urlopen(url, body, timeout=1 if order is None else 3) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await trio.to_thread.run_sync(fetch)


@pytest.mark.broker
async def test_web_serves_without_its_kafka_says_so_and_consumes_when_it_comes(
    kafka_to_come: KafkaServer, web: tuple[Worker, str]
) -> None:
    running, url = web
    assert await ask(f"{url}/orders") == (200, {})
    status, health = await ask(f"{url}/health")
    assert (status, health["ready"], list(health["missing"])) == (503, False, ["kafka"])
    status, refused = await ask(f"{url}/orders", {"id": 1, "total": 10})
    assert (status, "could not be reached" in refused["error"]) == (503, True), refused
    _, health = await ask(f"{url}/health")
    assert "refused" in health["missing"]["kafka"]

    await kafka_to_come.start()

    async def is_ready() -> bool:
        return await ask(f"{url}/health") == (200, {"ready": True, "missing": {}})

    await until_told(is_ready, within=5)
    assert await ask(f"{url}/orders", {"id": 2, "total": 100}) == (202, {"id": 2})

    async def is_billed() -> bool:
        return await ask(f"{url}/orders") == (200, {"2": 119.0})

    await until_told(is_billed)
    running.signal()
    status, seconds = await running.ends(within=10)
    assert (status, seconds < 5) == (0, True), running.output
    assert "Traceback" not in running.output


@pytest.mark.broker
async def test_web_ends_at_once_while_its_kafka_is_not_there(web: tuple[Worker, str]) -> None:
    running, url = web
    assert (await ask(f"{url}/health"))[0] == 503
    running.signal()
    status, seconds = await running.ends(within=10)
    assert (status, seconds < 2) == (0, True), running.output
