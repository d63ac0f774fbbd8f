"""What a person reads in the log."""

from __future__ import annotations

import logging

import pytest


def troubles(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """The log lines about `word` that a person is shown as a warning or worse."""
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [line for line in lines if word in line]
