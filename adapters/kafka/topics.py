"""What the user names: topics, the group that reads them, and where it begins."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from runtime.errors import ConfigurationError

#: What a Kafka server takes for a topic's name.
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

Start = Literal["earliest", "latest"] | datetime | float


@dataclass(frozen=True, slots=True, init=False)
class Topic:
    """One topic, or several that are read together.

    Args:
      names: the topics. Publishing takes one.
      group: the consumer group that reads them; the broker's by default. Every group gets every message.
      start: where a partition begins of which the group has committed nothing yet: at its earliest record, at its end,
        or at the first record from a moment on (a datetime with a time zone, or seconds since the epoch).
      member: the name of a static member (`group.instance.id`): a process that comes back under it within the group's
        session timeout gets its partitions back, and nobody else's work is moved. Unique in the group.
      partition: as a destination: the partition to write to. By default the key decides, as in other Kafka clients, and
        without a key any.
    """

    names: tuple[str, ...]
    group: str | None
    start: Start
    member: str | None
    partition: int | None

    def __init__(
        self,
        *names: str,
        group: str | None = None,
        start: Start = "earliest",
        member: str | None = None,
        partition: int | None = None,
    ) -> None:
        if not names:
            raise ConfigurationError("a Topic without a name: give one or more")
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
                raise ConfigurationError(
                    f"name of a Topic is {name!r}: Kafka takes up to 249 letters, digits, dots, dashes and underscores"
                )
        if len(set(names)) < len(names):
            raise ConfigurationError(f"names of a Topic are {', '.join(names)}: name each topic once")
        shown = ",".join(names)
        for option, value in {"group": group, "member": member}.items():
            if value is not None and (not isinstance(value, str) or not value):
                raise ConfigurationError(f"{option} of topic {shown!r} is {value!r}: give a name")
        if isinstance(start, datetime):
            if start.tzinfo is None:
                raise ConfigurationError(f"start of topic {shown!r} is {start!r}: give it a time zone")
        elif start not in ("earliest", "latest") and not _is_moment(start):
            raise ConfigurationError(
                f'start of topic {shown!r} is {start!r}: give "earliest", "latest", a datetime or seconds since the epoch'
            )
        if partition is not None and (type(partition) is not int or partition < 0):
            raise ConfigurationError(f"partition of topic {shown!r} is {partition!r}: give a number from 0 up")
        for field, given in {
            "names": names,
            "group": group,
            "start": start,
            "member": member,
            "partition": partition,
        }.items():
            object.__setattr__(self, field, given)

    @property
    def name(self) -> str:
        """The topic's name; of several all, with commas."""
        return ",".join(self.names)

    @property
    def start_ms(self) -> int | None:
        """The moment to start at in milliseconds since the epoch, if it is one."""
        if isinstance(self.start, str):
            return None
        seconds = self.start.timestamp() if isinstance(self.start, datetime) else self.start
        return int(seconds * 1000)

    def __str__(self) -> str:
        return self.name if self.group is None else f"{self.name}/{self.group}"


def _is_moment(start: object) -> bool:
    return isinstance(start, int | float) and not isinstance(start, bool) and 0 <= start < math.inf
