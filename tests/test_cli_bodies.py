"""Where `runtime publish` reads its messages, and the bar that it shows to a terminal and to nobody else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from runtime.cli.bodies import Bodies, Progress, open_bodies
from runtime.cli.loading import UsageError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def read(bodies: Bodies) -> list[bytes]:
    return [body async for body in bodies]


async def test_every_line_of_a_file_is_a_body_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_bytes(b'{"id": 1}\n\n{"id": 2}\r\n   \n{"id": 3}')
    with open_bodies(None, str(path)) as bodies:
        assert await read(bodies) == [b'{"id": 1}', b'{"id": 2}', b'{"id": 3}']
        assert bodies.read == bodies.size


async def test_a_line_longer_than_a_chunk_is_one_body(tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_bytes(b"x" * 200_000 + b"\n" + b"y")
    with open_bodies(None, str(path)) as bodies:
        assert [len(body) for body in await read(bodies)] == [200_000, 1]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=path.name), open_bodies(None, str(path)):
            pass


async def test_a_terminal_sees_a_bar_that_is_wiped_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_text("1\n2\n")
    screen = Terminal()
    with open_bodies(None, str(path)) as bodies:
        progress = Progress(bodies, screen)
        await read(bodies)
        progress.advance()
        assert "100%" in screen.getvalue()
        assert "1 confirmed" in screen.getvalue()
        progress.finish()
    assert screen.getvalue().endswith("\r\033[K")


async def test_a_pipe_sees_no_bar(tmp_path: Path) -> None:
    path = tmp_path / "f.ndjson"
    path.write_text("1\n")
    screen = io.StringIO()
    with open_bodies(None, str(path)) as bodies:
        progress = Progress(bodies, screen)
        await read(bodies)
        progress.advance()
        progress.finish()
    assert screen.getvalue() == ""
    assert progress.confirmed == 1
