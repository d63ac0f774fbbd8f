"""Logs that a person can read: time, level, what happened."""

from __future__ import annotations

import logging
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")


class _Formatter(logging.Formatter):
    """Our own lines say themselves who speaks; other libraries' lines get their logger's name."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name == "runtime" or record.name.startswith("runtime.")
        record.speaker = "" if ours else f"{record.name}: "
        return super().format(record)


def configure(level: str) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(speaker)s%(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
