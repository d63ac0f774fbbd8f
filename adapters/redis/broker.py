"""What the user holds: `RedisBroker`."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar, Unpack
from urllib.parse import unquote, urlsplit

from runtime.adapter import Features, Reading
from runtime.broker import Broker, BrokerOptions, hide_credentials
from runtime.dial import Dialer
from runtime.errors import ConfigurationError

from .connection import Address, open_connection
from .session import RedisSession
from .streams import Stream


class RedisBroker(Broker[Stream]):
    """A Redis server, 6.2 or later.

    Args:
      url: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`; `rediss://` for TLS;
        `unix://[[USER]:PASSWORD@]/PATH[?db=DATABASE]`.
      group: the consumer group of streams that name none.
      tls: for `rediss://`, in place of the system's certificate authorities.
      options: see `Broker`.
    """

    features: ClassVar[Features] = Features(
        ordering="process", lease="broker", attempts="broker", groups=True, unroutable=False
    )
    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss", "unix")

    def __init__(
        self, url: str, *, group: str = "default", tls: ssl.SSLContext | None = None, **options: Unpack[BrokerOptions]
    ) -> None:
        super().__init__(url, **options)
        self.group = group
        self._address = _parse(url, tls)
        # Bounded: an application may publish to any number of names.
        self._named = functools.lru_cache(maxsize=1024)(lambda name: Stream(name, group=group))

    def source(self, spec: Stream | str) -> Stream:
        if isinstance(spec, str):
            return self._named(spec)
        if not isinstance(spec, Stream):
            raise ConfigurationError(
                f"{spec!r} is not a Stream: RedisBroker reads a Stream, or a string that names one"
            )
        return spec if spec.group is not None else replace(spec, group=self.group)

    def reading(self, source: Stream) -> Reading:
        return Reading((source.name,), source.group or self.group, source.start)

    @asynccontextmanager
    async def open_session(self, identity: str, dialer: Dialer) -> AsyncIterator[RedisSession]:
        limit = self.connect_limit
        async with open_connection(self._address, dialer, limit, identity) as commands:
            yield RedisSession(commands, self._address, identity, dialer, limit)


def _parse(url: str, tls: ssl.SSLContext | None) -> Address:
    parts = urlsplit(url)
    shown = hide_credentials(url)
    try:
        port = 6379 if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port:
        raise ConfigurationError(
            f"the port in {shown!r} is no port: give 1 to 65535 (and write / ? # in a password as %2F %3F %23)"
        )
    is_unix = parts.scheme == "unix"
    if is_unix and (parts.hostname or not parts.path.strip("/")):
        raise ConfigurationError("a unix:// URL names an absolute path: write it like unix:///run/redis.sock")
    if not is_unix and not parts.hostname:
        raise ConfigurationError(f"{shown!r} names no host: write it like redis://localhost:6379")
    database, query = parts.path.strip("/") or "0", parts.query
    if is_unix:
        database, query = (query.removeprefix("db="), "") if query.startswith("db=") else ("0", query)
    if not database.isdecimal():
        raise ConfigurationError(f"the database in {shown!r} is no number: write it like redis://HOST:PORT/0")
    if query or parts.fragment:
        raise ConfigurationError(
            f"a Redis URL ends with its database, and {shown!r} goes on: options are arguments here"
        )
    if parts.username and parts.password is None:
        raise ConfigurationError(f"{shown!r} has a user and no password: write it like redis://USER:PASSWORD@HOST")
    if tls is not None and parts.scheme != "rediss":
        raise ConfigurationError("tls was given for a redis:// URL: write rediss:// to use TLS")
    return Address(
        host=parts.hostname or "",
        port=port,
        path=unquote(parts.path) if is_unix else None,
        database=int(database),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        tls=(tls or ssl.create_default_context()) if parts.scheme == "rediss" else None,
    )
