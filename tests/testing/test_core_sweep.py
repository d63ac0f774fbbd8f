"""The core, cancelled at every point of every scenario: nothing lost, nothing settled twice, nothing left."""

from __future__ import annotations

import logging

import pytest

from runtime.testing import sweep

from .scenarios import BROKERS, SCENARIOS, Scenario, confirmed_is_there


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Thousands of runs, each with its warnings.
    caplog.set_level(logging.CRITICAL)


@pytest.mark.promise("P2", "P6", "P9")
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cancel_at_any_point_breaks_no_promise(scenario: Scenario, broker: str) -> None:
    confirmed: list[str] = []
    seeds = [0, 1, 2] if broker in ("memory", "redis") else [0]
    report = sweep(scenario(BROKERS[broker], confirmed), confirmed_is_there(confirmed), seeds=seeds)
    print(report)
    assert report.points > 50
    assert str(report).endswith("points, 0 violations")
