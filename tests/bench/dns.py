"""Name look-ups that are slow or fail, for chosen names and within a block only.

    with slow_dns({"broker.test": 30.0}) as lookups:
        ...                                 # connect to broker.test; it is 127.0.0.1 after 30 s
        assert lookups.most_outstanding == 1

In a process of its own, a worker's module says `install_slow({"broker.test": 30.0})`, and its output tells of each
look-up: `looking up broker.test`.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Seconds that the end of a block gives released threads to be gone.
RELEASED_WITHIN = 5.0


class Lookups:
    """Look-ups of the chosen names: how many there were, and how many at the same time."""

    def __init__(self, delays: Mapping[str, float], address: str | None, *, announce: bool = False) -> None:
        self.count = 0
        self.outstanding = 0
        self.most_outstanding = 0
        self._delays = delays
        self._address = address
        self._announce = announce
        self._real = socket.getaddrinfo
        self._ended = False
        self._changed = threading.Condition()

    def install(self) -> None:
        socket.getaddrinfo = self._getaddrinfo

    def remove(self) -> None:
        """Look up as before, and end at once what is still being looked up."""
        socket.getaddrinfo = self._real
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            gone = self._changed.wait_for(lambda: self.outstanding == 0, RELEASED_WITHIN)
            assert gone, f"{self.outstanding} look-ups did not end"

    def _getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        # Whether a name is an address is not a question to the resolver.
        if name not in self._delays or flags & socket.AI_NUMERICHOST:
            return self._real(host, port, family, type, proto, flags)
        if self._announce:
            print("looking up", name, flush=True)
        if not self._waited_out(self._delays[name]):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if self._address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real(self._address, port, family, type, proto, flags)

    def _waited_out(self, seconds: float) -> bool:
        """False when the block ended first."""
        with self._changed:
            self.count += 1
            self.outstanding += 1
            self.most_outstanding = max(self.most_outstanding, self.outstanding)
            try:
                return not self._changed.wait_for(lambda: self._ended, seconds)
            finally:
                self.outstanding -= 1
                self._changed.notify_all()


@contextmanager
def slow_dns(delays: Mapping[str, float], *, address: str = "127.0.0.1") -> Iterator[Lookups]:
    """Each name takes its seconds to look up and is then `address`. The end of the block ends every look-up."""
    with _installed(Lookups(delays, address)) as lookups:
        yield lookups


@contextmanager
def failing_dns(*names: str, after: float = 0) -> Iterator[Lookups]:
    """These names are unknown, which takes `after` seconds to find out."""
    with _installed(Lookups(dict.fromkeys(names, after), None)) as lookups:
        yield lookups


def install_slow(delays: Mapping[str, float], *, address: str = "127.0.0.1") -> Lookups:
    """Like `slow_dns` for the rest of this process, and it tells of each look-up on standard output."""
    lookups = Lookups(delays, address, announce=True)
    lookups.install()
    return lookups


@contextmanager
def _installed(lookups: Lookups) -> Iterator[Lookups]:
    lookups.install()
    try:
        yield lookups
    finally:
        lookups.remove()
