"""What a client's statistics and error events say about the cluster. No I/O."""

from __future__ import annotations

import time
from typing import Final

import msgspec
from confluent_kafka import KafkaError

from .lease import Place
from .refusals import AUTHENTICATION, text

#: A request that waits this long, in seconds, without a byte from its server, counts as unanswered. A fetch is answered
#: after half a second, whether there are records or not. With statistics four times a probe, silence is found out within
#: two probes of the default interval, and a round trip of a second is none.
SILENCE: Final = 1.5


class _Server(msgspec.Struct):
    state: str = ""
    nodeid: int = -1
    #: Microseconds since the last byte came.
    rxidle: int = -1
    #: Requests sent that wait for their answer.
    waitresp_cnt: int = 0


class _Partition(msgspec.Struct):
    hi_offset: int = -1
    #: Of the next record that the application will be given.
    app_offset: int = -1
    committed_offset: int = -1
    lo_offset: int = -1


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Statistics(msgspec.Struct):
    """The part that is read of what is documented in librdkafka's STATISTICS.md."""

    brokers: dict[str, _Server] = {}
    topics: dict[str, _Topic] = {}


_decode = msgspec.json.Decoder(_Statistics).decode


class Health:
    """One client's view of the cluster, kept in the client's thread."""

    def __init__(self) -> None:
        #: Why the cluster is not well, for this client: one line.
        self.complaint: str | None = None
        #: The server said no to who we are: no use trying on.
        self.refused: KafkaError | None = None
        #: What cannot be mended within this client.
        self.fatal: KafkaError | None = None
        #: Records that wait, where it is known.
        self.lags: dict[Place, int] = {}
        self._last_error: KafkaError | None = None
        self._when = 0.0

    def on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error
        elif error.code() in AUTHENTICATION:
            self.refused = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            cause = f": {text(self._last_error)}" if self._last_error is not None else ""
            self.complaint = f"no server of the cluster can be reached{cause}"
        else:
            self._last_error, self._when = error, time.monotonic()

    @property
    def last_error(self) -> KafkaError | None:
        return self._last_error

    def on_statistics(self, statistics: str) -> None:
        parsed = _decode(statistics)
        up = [server for server in parsed.brokers.values() if server.state == "UP"]
        silent = [s for s in up if s.waitresp_cnt > 0 and s.rxidle > SILENCE * 1_000_000]
        if up and len(silent) < len(up):
            self.complaint = self.refused = self._last_error = None
        elif up:
            idle = max(server.rxidle for server in silent) / 1_000_000
            self.complaint = f"no server of the cluster has answered for {idle:.0f} s"
        elif self._last_error is not None and self.complaint is None:
            self.complaint = f"no server of the cluster can be reached: {text(self._last_error)}"
        self.lags = {
            Place(topic, int(number)): max(partition.hi_offset - begin, 0)
            for topic, known in parsed.topics.items()
            for number, partition in known.partitions.items()
            if partition.hi_offset >= 0 and (begin := _begin(partition)) >= 0
        }


def _begin(partition: _Partition) -> int:
    """Where reading goes on: what is not known yet is negative."""
    offsets = (partition.app_offset, partition.committed_offset, partition.lo_offset)
    return next((offset for offset in offsets if offset >= 0), -1)
