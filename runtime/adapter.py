"""The contract between the runtime and a broker's adapter.

An adapter is a `Broker` subclass that opens *sessions*; a session opens *sources*; all traffic crosses in batches.
Each method states what a cancel leaves behind, because that is where client libraries differ and runtimes break.

The runtime promises in return: it calls `open_session` for one session at a time, cancels `receive`, `probe`, `settle`
and `publish` only to tear down the session (or, for `receive`, to stop taking), never calls two `settle` or two `publish`
of one session at once, and settles each delivery at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from .delivery import Delivery, Outcome
from .dial import Dialer
from .message import Message


@dataclass(frozen=True, slots=True)
class Features:
    """What an adapter's broker can do. The runtime decides by this record, never by the adapter's type."""

    #: Where `ordered_by="key"` can hold: nowhere, or within one process.
    ordering: Literal["none", "process"]
    #: What a delivery's lease is bound to: the `session` (a lost session loses it: the broker delivers it again) or
    #: the `broker` (it outlives the session, and can be settled on the next one).
    lease: Literal["session", "broker"]
    #: Who remembers how often a message was tried: the `broker`, or only the `session` that it was delivered on.
    attempts: Literal["session", "broker"]
    #: Whether several groups can read one source, each getting every message.
    groups: bool
    #: Whether a publish that nobody could ever receive is refused with `Unroutable`.
    unroutable: bool
    #: What becomes of a handler whose delivery's lease is gone: it is `finished` (most brokers deliver again only later),
    #: or `cancelled`, because another process may be at work on the same partition by now.
    lost: Literal["finished", "cancelled"] = "finished"
    #: What the broker remembers as acknowledged when a session ends: `each` message, or the `prefix` of a partition in
    #: which every one is. There, what was acknowledged behind one that was not comes again with it.
    acks: Literal["each", "prefix"] = "each"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a source reads, in the terms that all brokers share. The test kit simulates an adapter's broker by it.

    A *log* is a named sequence of messages; the readers of one `group` share its messages, and each group gets all of
    them. A group that does not exist yet begins at `start`. A queue is a log with a single group, named "".
    """

    logs: tuple[str, ...]
    group: str = ""
    start: Literal["beginning", "end"] = "beginning"


class Source(Protocol):
    """What a subscription reads from or a publish goes to: a stream, a queue, a topic. Hashable, and frozen."""

    @property
    def name(self) -> str: ...


class Outgoing(msgspec.Struct, frozen=True):
    """A message on its way out, and where to."""

    message: Message
    source: Any


class Settlement(msgspec.Struct, frozen=True):
    """The one settlement of a delivery."""

    delivery: Delivery
    outcome: Outcome


def rejected_headers(message: Message, reason: str, source: str) -> dict[str, str]:
    """The headers of the copy of `message` that is set aside: its own, and why and from where. The names are pinned."""
    return {**message.headers, "rejected-reason": reason, "rejected-from": source}


#: The unsettled deliveries of one subscription by receipt: a live view, kept by the runtime across sessions.
Held = Mapping[Hashable, Delivery]


class Receiver(Protocol):
    """An open source. Where the broker deals a source out in parts it also has `assignment`, a string for the status:
    which of them are this receiver's now."""

    @property
    def lag(self) -> int | None:
        """How many messages wait on the broker that nobody in the group has received; None when it is not known."""
        ...

    async def receive(self, most: int) -> Sequence[Delivery]:
        """Wait until there is at least one message, and take between 1 and `most`.

        Nothing is awaited between taking a message and returning it, so a cancel never finds one in between: what the
        broker handed out and this call did not return must be delivered again, by the adapter itself (when the source
        is closed or opened again) or by the broker. After a cancel the receiver is not used again.

        Never returns a delivery whose receipt is in `held`.

        Raises `SessionLost` when the transport is gone, `Refused` when the broker said no to this source alone.
        """
        ...


class Session(Protocol):
    """One connected stay with a broker."""

    def open_source(
        self, source: Any, held: Held, on_lost: Callable[[Delivery], None], *, again: bool, prefetch: int
    ) -> AbstractAsyncContextManager[Receiver]:
        """Open what a subscription reads from; create what is missing.

        `again` says that this run had it open before. A source that starts at the end then starts at the beginning if
        it has to be created: it vanished, and whatever is in it now is new. `prefetch` is how many deliveries the runtime
        will ever hold of it; an adapter whose broker pushes takes no more from it, its own buffer included.

        While it is open the adapter keeps the leases of `held` alive, and calls `on_lost` for each that it finds gone.
        A cancel while it opens leaves nothing behind. Closing it, also under a cancel, takes at most half a second,
        and gives back what the broker handed out and `receive` never returned.
        """
        ...

    async def settle(self, batch: Sequence[Settlement]) -> Sequence[Exception | None]:
        """Send the batch and wait until the broker has taken it; one result per item, None for done.

        An item's own error means that its lease is gone. Raises `SessionLost` for all of it, also when the session ends
        meanwhile. The runtime then sends it again on the next session if leases are bound to the broker, so a settlement
        must be safe to repeat there.
        """
        ...

    async def writable(self, paused: Callable[[str], None]) -> None:
        """Return when the broker takes messages; if it does not for now, call `paused` with the reason, and wait.

        At once where no broker says so. What is published next may find that it has stopped to: then `paused` is called
        while that waits. A cancel leaves nothing behind. Raises `SessionLost` when the session ends first.
        """
        ...

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Exception | None]:
        """Send the batch and wait for the broker's confirms; one result per item, None for confirmed.

        An item's own error is `Rejected`, `Unroutable`, `OutcomeUnknown`, or `BrokerUnavailable` when the broker takes
        no messages at all for now (it is out of memory, say). Raises `SessionLost` for all of it, with
        ``sent=False`` if nothing of it can have reached the broker.
        """
        ...

    async def probe(self) -> str | None:
        """Return when the broker has answered: None if all is well, else one line about what is not and may mend by
        itself (a client library that reconnects says so here). Raise `SessionLost` when the session is known to be over.

        May take for ever: the watchdog has its own deadlines. No blocking read of a source may hold it up.
        """
        ...


#: Opens one session of a broker. The first argument is unique to the run, the second connects sockets for this broker.
#: A cancel, and every way out, leaves no socket, task or thread behind; a graceful close takes at most half a second
#: and then becomes a forceful one.
OpenSession = Callable[[str, Dialer], AbstractAsyncContextManager[Session]]
