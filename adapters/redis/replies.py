"""Error replies: what the server's first word means to whoever waits for the answer."""

from __future__ import annotations

from typing import Final

from runtime.adapter import Outgoing
from runtime.errors import BrokerUnavailable, Refused, Rejected, SessionLost

#: The server is not itself for the moment, or no longer what we connected to; a new connection will tell.
_ANOTHER_TIME: Final = frozenset({"LOADING", "BUSY", "TRYAGAIN", "READONLY", "MASTERDOWN", "CLUSTERDOWN"})
#: The server takes no writes at all for now. It has not stored the message.
_NO_WRITES: Final = frozenset({"OOM", "MISCONF", "NOREPLICAS"})


class ReplyError(Exception):
    """The server's answer to one command was an error. `code` is its first word: WRONGTYPE, NOGROUP, …"""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]

    @property
    def means_elsewhere(self) -> bool:
        """The right server may be another one by now, or the same one after a new connection."""
        return self.code in _ANOTHER_TIME


def refusal(error: ReplyError, what: str) -> Exception:
    """What it means for a connection or a source."""
    if error.means_elsewhere:
        return SessionLost(f"{what} is not ready: {error}", sent=False)
    return Refused(f"{what} refused: {error}")


def publish_error(error: ReplyError, item: Outgoing) -> Exception:
    """What it means for one message."""
    what = f"message {item.message.id} to stream {item.source.name!r}"
    if error.code in _NO_WRITES or error.means_elsewhere:
        return BrokerUnavailable(f"Redis takes no writes for now, so {what} was not sent: {error}")
    return Rejected(f"Redis refused {what}: {error}")
