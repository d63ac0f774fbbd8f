"""`runtime run` in a process of its own, watched from a Trio test."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from .command import Worker, command


@asynccontextmanager
async def worker(
    folder: Path, module: str, *arguments: str, environment: Mapping[str, str] = os.environ
) -> AsyncIterator[Worker]:
    """Write `module` to `folder`/handlers.py and start `runtime run handlers *arguments`; killed when the block ends."""
    (folder / "handlers.py").write_text(module)
    words = (sys.executable, "-m", "runtime", "run", "handlers", *arguments)
    async with command(*words, folder=folder, environment=environment) as running:
        yield running
