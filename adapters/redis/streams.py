"""What the user names: a stream and the group that reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from runtime.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Stream:
    """A Redis stream.

    Args:
      name: its key.
      group: the consumer group that reads it; the broker's by default. Every group gets every entry.
      start: where a group that does not exist yet begins: at the first entry, or with the next one.
      lease: seconds after which an entry that a dead consumer took is taken over. A live consumer renews its leases,
        however long its handlers run. Also the longest delay of a redelivery.
      poll: seconds that one blocking read may wait. It bounds nothing that a user can feel: an entry wakes the read.
      maxlen: as a destination: trim the stream to about this many entries with every publish. None never trims.
      maxage: as a destination: trim what is older than about this many seconds with every publish (MINID).
    """

    name: str
    group: str | None = None
    start: Literal["beginning", "end"] = "beginning"
    lease: float = 30.0
    poll: float = 5.0
    maxlen: int | None = None
    maxage: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(f"name of a Stream is {self.name!r}: give the key of the stream")
        if self.group is not None and (not isinstance(self.group, str) or not self.group):
            raise ConfigurationError(f"group of stream {self.name!r} is {self.group!r}: give a name")
        if self.start not in ("beginning", "end"):
            raise ConfigurationError(f'start of stream {self.name!r} is {self.start!r}: give "beginning" or "end"')
        for option, value in {"lease": self.lease, "poll": self.poll}.items():
            if not isinstance(value, int | float) or not 0.01 <= value < math.inf:
                raise ConfigurationError(f"{option} of stream {self.name!r} is {value!r}: give seconds from 0.01 up")
        # True is an int to Python, and nothing that can be sent to Redis.
        if self.maxlen is not None and (type(self.maxlen) is not int or self.maxlen < 1):
            raise ConfigurationError(f"maxlen of stream {self.name!r} is {self.maxlen!r}: give a number of entries")

        if self.maxage is not None and (not isinstance(self.maxage, int | float) or not 0 < self.maxage < math.inf):
            raise ConfigurationError(f"maxage of stream {self.name!r} is {self.maxage!r}: give seconds above 0")
        if self.maxlen is not None and self.maxage is not None:
            raise ConfigurationError(f"stream {self.name!r} has both maxlen and maxage: Redis trims by one of them")

    def __str__(self) -> str:
        return self.name if self.group is None else f"{self.name}/{self.group}"
