"""Connecting a socket such that every part of it can be cancelled, name look-ups included."""

from __future__ import annotations

import errno
import functools
import os
import socket
import ssl
from typing import Any

import trio

from .errors import SessionLost

#: Seconds for one address, so that one that is black-holed leaves time for the next.
ADDRESS_LIMIT = 3.0


class Dialer:
    """One broker's way to its sockets.

    A name look-up runs in a thread that nothing can interrupt. A cancel abandons it, and it ends when the resolver
    gives up. The limiter is this broker's own and has one place: at most one look-up is outstanding, however often it
    was abandoned, and no other broker, nor the rest of the process, runs out of threads because of it.
    """

    def __init__(self) -> None:
        self._lookups = trio.CapacityLimiter(1)

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Connect to the first address of `host` that answers. Raises OSError, saying which name or address failed."""
        failures: list[OSError] = []
        for family, kind, protocol, _, address in await self._resolve(host, port):
            connection = trio.socket.socket(family, kind, protocol)
            try:
                with trio.fail_after(ADDRESS_LIMIT):
                    await connection.connect(address)
            except OSError as error:
                connection.close()
                failures.append(error)
            except trio.TooSlowError:
                connection.close()
                failures.append(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))
            except BaseException:
                connection.close()
                raise
            else:
                return trio.SocketStream(connection)
        first = failures[0]
        why = os.strerror(first.errno) if first.errno else str(first)
        raise OSError(first.errno, f"cannot connect to {host}:{port}: {why}")

    async def _resolve(self, host: str, port: int) -> list[Any]:
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            return look_up(flags=socket.AI_NUMERICHOST)  # an address needs no thread
        except socket.gaierror:
            pass
        try:
            return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._lookups)
        except socket.gaierror as error:
            raise OSError(error.errno, f"cannot resolve {host!r}: {error.strerror}") from None


async def wrap_tls(stream: trio.SocketStream, tls: ssl.SSLContext, host: str) -> trio.SSLStream[trio.SocketStream]:
    """Shake hands over `stream`. Raises `SessionLost`; on every way out but the good one the socket is closed."""
    secure = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise SessionLost(f"no TLS with {host}: {error.__cause__ or error}", sent=False) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure
