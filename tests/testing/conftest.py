"""Fixtures of the test kit's own tests."""

from __future__ import annotations

import pytest

from adapters.memory import MemoryBroker

from .billing import Billing
from .brokers import brokers


@pytest.fixture(params=brokers(), ids=lambda broker: type(broker).__name__)
def billing(request: pytest.FixtureRequest) -> Billing:
    return Billing(type(request.param)(request.param.url))


@pytest.fixture
def memory() -> Billing:
    return Billing(MemoryBroker())
