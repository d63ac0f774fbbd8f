"""Logs that a person can read (time, level, what happened) or a machine (JSON lines)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Final

import msgspec

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")


class _Formatter(logging.Formatter):
    """Our own lines say themselves who speaks; other libraries' lines get their logger's name."""

    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        ours = record.name == "runtime" or record.name.startswith("runtime.")
        record.speaker = "" if ours else f"{record.name}: "
        return super().format(record)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = f"{record.exc_info[0].__qualname__}: {record.exc_info[1]}"
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure(level: str, form: str) -> None:
    """Send all logs to standard error, as one of `FORMATS`."""
    handler = logging.StreamHandler()
    text = _Formatter("%(asctime)s %(levelname)-7s %(speaker)s%(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
