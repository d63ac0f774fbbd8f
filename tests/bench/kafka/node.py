"""One Kafka node: broker and controller in one process."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from ..process import ServerProcess, free_port
from ..proxy import Proxy, open_proxy
from .admin import KafkaAdmin
from .install import archive, format_storage, java, missing

#: Any cluster's id: 16 bytes as Kafka writes them. A node refuses the storage of another.
CLUSTER = "AAAAAAAAAAAAAAAAAAAAAQ"

#: What makes a test's cluster quick: nothing waits for latecomers, and groups may have short time-outs.
QUICK = {
    "num.partitions": 4,
    "offsets.topic.num.partitions": 1,
    "transaction.state.log.num.partitions": 1,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 500,
    "broker.heartbeat.interval.ms": 200,
    "broker.session.timeout.ms": 1000,
    "log.cleaner.dedupe.buffer.size": 2**21,
}

#: How the JVM is started: with the classes as the last start left them.
JAVA = (f"-XX:SharedArchiveFile={archive()}", "-Xlog:cds=off")
#: With this the log tells of every request: see `requests`.
REQUESTS = "-Dorg.slf4j.simpleLogger.log.kafka.request.logger=debug"


class KafkaServer(ServerProcess):
    """One node, that is a cluster of its own unless it is told of others.

    Its applications connect to `bootstrap`. Tests look at it through `admin`, which has a port of its own, so that
    whatever stands before the other one is neither in their way nor in that of the nodes.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, object] | None = None,
        *,
        node: int = 1,
        protocol: str = "PLAINTEXT",
        java: Sequence[str] = JAVA,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self.node = node
        self.inner_port, self.controller_port = free_port(), free_port()
        self.admin = KafkaAdmin(f"127.0.0.1:{self.inner_port}")
        #: The nodes of its cluster.
        self.nodes: Sequence[KafkaServer] = (self,)
        self._advertised = self.port
        self._properties = properties or {}
        self._protocol = protocol
        self._java = java

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._advertised}"

    def advertise(self, port: int) -> None:
        """Send clients there, to a proxy of `port`. To be said before the start."""
        self._advertised = port

    def launch(self) -> None:
        if not (self.folder / "data").exists():
            format_storage(self.folder / "data", CLUSTER, self.node)
        file = self.folder / "server.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in self._all_properties().items()))
        self._process = self._launch(java(*self._java, "kafka.Kafka", str(file)))

    def answers(self) -> bool:
        """It takes requests of clients only when it is a member of its cluster."""
        request = struct.pack(">hhih", 18, 0, 0, -1)  # ApiVersions, which needs no authentication
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(struct.pack(">i", len(request)) + request)
                return bool(connection.recv(4))
        except OSError:
            return False

    def _all_properties(self) -> dict[str, object]:
        copies = len(self.nodes)
        ports = {"CLIENTS": self.port, "INNER": self.inner_port, "CONTROLLER": self.controller_port}
        return {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": ",".join(f"{n.node}@127.0.0.1:{n.controller_port}" for n in self.nodes),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INNER",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items()),
            "advertised.listeners": f"CLIENTS://{self.bootstrap},INNER://127.0.0.1:{self.inner_port}",
            "listener.security.protocol.map": f"CLIENTS:{self._protocol},INNER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.folder / "data",
            "default.replication.factor": copies,
            "min.insync.replicas": copies // 2 + 1,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": copies // 2 + 1,
            **QUICK,
            **self._properties,
        }


@contextmanager
def kafka_server(
    folder: Path,
    properties: Mapping[str, object] | None = None,
    *,
    node: int = 1,
    protocol: str = "PLAINTEXT",
    java: Sequence[str] = JAVA,
) -> Iterator[KafkaServer]:
    """A node that is not started yet, and is gone when the block ends."""
    assert missing() is None, f"{missing()}: ./scripts/test installs it"
    server = KafkaServer(folder, properties, node=node, protocol=protocol, java=java)
    try:
        yield server
    finally:
        server.kill()


@asynccontextmanager
async def before(server: KafkaServer) -> AsyncIterator[Proxy]:
    """A proxy that all clients of `server` go through, which is not started yet."""
    async with open_proxy(server.port) as proxy:
        server.advertise(proxy.port)
        yield proxy
