"""Every example runs as its own first lines say, ends by itself, and prints what it promises."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from .bench.command import command
from .bench.servers import RedisServer

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
