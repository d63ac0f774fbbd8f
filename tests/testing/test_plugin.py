"""The pytest plugin, as a user's test run meets it: a pytest of its own in an empty folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import pytest, trio
from adapters.redis import RedisBroker
from runtime import Runtime

redis = RedisBroker("redis://nowhere.invalid:6379")
shop = Runtime(redis)

@redis.subscriber("orders")
@redis.publisher("invoices")
async def bill(order: dict) -> dict:
    if order["total"] < 0:
        raise ValueError("a negative total")
    return {"due": order["total"]}
"""

FIXTURE = """
@pytest.fixture
def app() -> Runtime:
    return shop
"""


def _pytest(folder: Path, test: str, *options: str, trio_mode: bool = True) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(f"[pytest]\ntrio_mode = {str(trio_mode).lower()}\n")
    (folder / "test_shop.py").write_text(APP + test)
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)


def test_the_fixture_opens_the_application_that_a_fixture_named_app_returns(tmp_path: Path) -> None:
    done = _pytest(
        tmp_path,
        FIXTURE
        + """
async def test_bill(world, autojump_clock):
    await world.publish({"total": 3}, to=bill)
    await world.settled()
    assert world.published("invoices", dict) == [{"due": 3}]
""",
    )
    assert done.returncode == 0, done.stdout


def test_a_mark_names_the_application_and_the_options_and_works_without_trio_mode(tmp_path: Path) -> None:
    done = _pytest(
        tmp_path,
        """
@pytest.mark.trio
@pytest.mark.runtime(shop, seed=3, collect_errors=True)
async def test_bill(world, autojump_clock):
    await world.publish({"total": -3}, to=bill)
    (*_, last) = await world.settled(collect_errors=True)
    assert str(last) == "a negative total"
    assert world._outside.time() > 0
""",
        trio_mode=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_failed_assertion_prints_the_timeline(tmp_path: Path) -> None:
    done = _pytest(
        tmp_path,
        FIXTURE
        + """
async def test_bill(world, autojump_clock):
    await world.publish({"total": 3}, to=bill)
    await world.settled()
    assert world.published("invoices", dict) == []
""",
    )
    assert done.returncode == 1
    assert "The world's timeline" in done.stdout
    assert "message m1 acknowledged" in done.stdout


def test_what_a_handler_raised_fails_a_test_that_never_asked(tmp_path: Path) -> None:
    done = _pytest(
        tmp_path,
        FIXTURE
        + """
async def test_bill(world, autojump_clock):
    await world.publish({"total": -3}, to=bill)
    await trio.sleep(60)
""",
    )
    assert done.returncode == 1
    assert "a negative total" in done.stdout
    assert "rejected: failed 5 times" in done.stdout


@pytest.mark.parametrize(
    ("test", "sentence"),
    [
        ("async def test_bill(world): ...", "define a fixture `app` that returns a Runtime"),
        ("@pytest.mark.runtime(3)\nasync def test_bill(world): ...", "needs a Runtime, and got 3"),
    ],
)
def test_a_world_without_an_application_is_refused_with_the_way_out(tmp_path: Path, test: str, sentence: str) -> None:
    done = _pytest(tmp_path, test)
    assert done.returncode == 1
    assert sentence in done.stdout


def test_unused_it_is_in_nobodys_way(tmp_path: Path) -> None:
    done = _pytest(tmp_path, "def test_nothing(): ...\n", "-p", "no:trio", "-o", "addopts=", trio_mode=True)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_is_registered_and_can_be_switched_off(tmp_path: Path) -> None:
    shown = _pytest(tmp_path, "", "--fixtures", "-v").stdout
    assert "open_test` as a fixture" in shown
    hidden = _pytest(tmp_path, "", "--fixtures", "-v", "-p", "no:runtime").stdout
    assert "open_test` as a fixture" not in hidden
