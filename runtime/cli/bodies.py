"""Where `runtime publish` gets its messages from, and the line that shows how far it is."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

import trio

from .loading import UsageError

_CHUNK: Final = 1 << 16
#: Seconds between two looks of the progress line.
_PERIOD: Final = 0.1


class Bodies:
    """The bodies to publish: one given on the command line, or the lines of a file or of standard input."""

    def __init__(self, body: str | None, descriptor: int | None, size: int | None) -> None:
        self._body = body
        self._descriptor = descriptor
        #: In bytes; None where it is not known.
        self.size = size
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._descriptor is None:
            assert self._body is not None
            yield self._body.encode(errors="surrogateescape")
            return
        rest = b""
        # os.read in a thread and no file object: a pipe may stay silent for ever, and a thread abandoned inside a
        # buffered reader keeps its lock and breaks Python's exit.
        while chunk := await trio.to_thread.run_sync(os.read, self._descriptor, _CHUNK, abandon_on_cancel=True):
            self.read += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line.rstrip(b"\r")
        if rest.strip():
            yield rest


@contextmanager
def open_bodies(body: str | None, path: str | None) -> Iterator[Bodies]:
    """Raises `UsageError` for a file that cannot be read."""
    if path is None:
        yield Bodies(body, 0 if body == "-" else None, None)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"cannot read {path!r}: {error.strerror}") from None
    try:
        if not os.path.isfile(path):
            raise UsageError(f"cannot read {path!r}: it is not a file")
        yield Bodies(None, descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


class Progress:
    """Counts confirms, and shows them on one line when a terminal looks on."""

    def __init__(self, bodies: Bodies, screen: TextIO) -> None:
        self.confirmed = 0
        self._bodies = bodies
        self._screen = screen if screen.isatty() and bodies.size is not None else None
        self._shown = 0.0

    def advance(self) -> None:
        self.confirmed += 1
        if self._screen is not None and time.monotonic() - self._shown > _PERIOD:
            self._show()

    def finish(self) -> None:
        """Wipe the line: the command's last word follows."""
        if self._screen is not None:
            self._screen.write("\r\033[K")
            self._screen.flush()

    def _show(self) -> None:
        assert self._screen is not None
        self._shown = time.monotonic()
        # What is read and not confirmed is at most the window: close enough for a bar.
        share = self._bodies.read / self._bodies.size if self._bodies.size else 1.0
        bar = "█" * int(share * 30)
        self._screen.write(f"\r{bar:<30} {share:4.0%}  {self.confirmed} confirmed\033[K")
        self._screen.flush()
