"""Fetch Kafka into the cache, and leave there what makes its next start fast. Says nothing if all is there."""

import os
import tempfile
from pathlib import Path

import trio

from .install import archive, install
from .node import KafkaServer


async def main() -> None:
    install()
    if not archive().exists():
        with tempfile.TemporaryDirectory(dir=archive().parent) as folder:
            made = Path(folder) / "classes"
            node = KafkaServer(Path(folder), java=(f"-XX:ArchiveClassesAtExit={made}",))
            try:
                await node.start()
                node.stop()
            finally:
                node.kill()
            os.rename(made, archive())


trio.run(main)
