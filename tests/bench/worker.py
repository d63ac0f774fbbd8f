"""`runtime run` in a process of its own, watched from a Trio test."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .command import Worker, command


@asynccontextmanager
async def worker(folder: Path, module: str, *arguments: str) -> AsyncIterator[Worker]:
    """Write `module` to `folder`/handlers.py and start `runtime run handlers *arguments`; killed when the block ends."""
    (folder / "handlers.py").write_text(module)
    async with command(sys.executable, "-m", "runtime", "run", "handlers", *arguments, folder=folder) as running:
        yield running
