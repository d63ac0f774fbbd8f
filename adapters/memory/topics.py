"""What the user names: a topic and the group that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and the group that reads it.

    Args:
      name: the topic; it exists once it is named.
      group: who shares the messages. Every group gets every message.
      start: where a group that does not exist yet begins: at the oldest message kept, or with the next one.
    """

    name: str
    group: str = "default"
    start: Literal["beginning", "end"] = "beginning"

    def __post_init__(self) -> None:
        for field, value in {"name": self.name, "group": self.group}.items():
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"{field} of a Topic is {value!r}: give a name")
        if self.start not in ("beginning", "end"):
            raise ConfigurationError(f'start of topic {self.name!r} is {self.start!r}: give "beginning" or "end"')

    def __str__(self) -> str:
        return f"{self.name}/{self.group}"
