"""Fixtures of the fault tests."""

from __future__ import annotations

import sys

import pytest

from .rabbit_place import Connection

NO_AIO = pytest.mark.skipif(sys.version_info >= (3, 14), reason="NO AIO-PIKA: there is no trio-asyncio for this Python")


@pytest.fixture(params=["native", pytest.param("aio-pika", marks=[pytest.mark.soak, NO_AIO])])
def connection(request: pytest.FixtureRequest) -> Connection:
    """Which of RabbitMQ's connections a test uses: each fault happens to both."""
    return "aio-pika" if request.param == "aio-pika" else "native"
