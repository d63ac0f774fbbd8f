"""What a run takes from outside of itself: its brokers' sessions, chance, names and the time of day.

One object, so that the test kit can put another world in its place without a change to the application: every effect of
a run that is not Trio's goes through here.
"""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from .adapter import OpenSession
from .broker import Broker
from .endpoint import Middleware
from .handler import Handler
from .message import new_message_id


class Outside:
    """The real world."""

    def open_session(self, broker: Broker[Any]) -> OpenSession:
        """What opens the sessions of `broker`."""
        return broker.open_session

    def identity(self) -> str:
        """A name for a run, unique across processes and hosts: the one under which it consumes."""
        return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def message_id(self) -> str:
        return new_message_id()

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def observe(self, handler: Handler, decode: Callable[[bytes], Any]) -> Middleware | None:
        """A middleware that sees each call of `handler`, and what it raised; None for no need of one."""
        return None


#: Where the runs that are started in this context live.
outside: ContextVar[Outside] = ContextVar("outside", default=Outside())  # noqa: B039 - it has no state
