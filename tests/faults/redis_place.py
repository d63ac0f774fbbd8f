"""Where the faults of `stories` happen to a Redis."""

from __future__ import annotations

from adapters.redis import RedisBroker

from ..bench.servers import RedisServer
from .place import Place


def place(server: RedisServer) -> Place:
    return Place("redis", server, RedisBroker, "redis://{host}:{port}")
