"""Apache Kafka from its Maven artifacts, fetched once into a cache: `python -m tests.bench.kafka`.

The version is the one in `pom.xml`. Whatever is in the cache is whole: a folder gets its name when it is complete.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")

#: A heap and a compiler for many short lives on few cores. Warnings go to the node's log.
JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")

#: The part of a formatted storage that is the same for every node: which features the cluster begins with.
CHECKPOINT = "bootstrap.checkpoint"

#: Enough of a node for its storage to be formatted.
FORMAT = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
log.dirs={folder}
"""


def cache() -> Path:
    """Where this version of Kafka is, or will be."""
    (version,) = re.findall(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)</version>", POM.read_text())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trio-runtime" / f"kafka-{version}"


def missing() -> str | None:
    """Why no node can be started, or None."""
    if shutil.which("java") is None:
        return "java is not on PATH"
    return None if cache().is_dir() else f"{cache()} is not there"


def archive() -> Path:
    """Where its classes are as a start left them in memory, which halves the time of the next start."""
    return cache().with_suffix(".jsa")


def java(*words: str) -> list[str]:
    """The command that runs a class of Kafka's."""
    return ["java", *JVM, "-cp", str(cache() / "jars" / "*"), *words]


def format_storage(folder: Path, cluster: str, node: int) -> None:
    """What `kafka-storage format` does, without starting a JVM for it."""
    folder.mkdir(parents=True)
    shutil.copy(cache() / CHECKPOINT, folder)
    properties = f"version=1\ncluster.id={cluster}\nnode.id={node}\n"
    (folder / "meta.properties").write_text(properties)


def install() -> None:
    """Fetch it, unless it is there."""
    if cache().is_dir():
        return
    cache().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache().parent) as folder:
        made = Path(folder) / "kafka"
        (made / "jars").mkdir(parents=True)
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={made / 'jars'}")
        _run("mvn", "-q", "-B", "-f", str(POM), *goal)
        properties = Path(folder) / "server.properties"
        properties.write_text(FORMAT.format(folder=Path(folder) / "data"))
        tool = ("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(properties))
        _run("java", *JVM, "-cp", str(made / "jars" / "*"), *tool)
        shutil.copy(Path(folder) / "data" / CHECKPOINT, made)
        try:
            made.rename(cache())
        except OSError:
            assert cache().is_dir()  # another process was faster


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout}{done.stderr}"
