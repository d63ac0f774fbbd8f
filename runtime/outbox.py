"""The outbox: every publish of one broker, sent in batches, each caller told what became of his."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from .adapter import Outgoing
from .batch_queue import BatchQueue
from .errors import BrokerUnavailable, OutcomeUnknown, SessionLost
from .link import Link

logger = logging.getLogger("runtime.outbox")

#: One pipeline of this many keeps a local broker busy; more only makes the first of them wait longer.
MAX_BATCH = 256


class Outbox:
    """`publish` is called in the caller's task, `run` sends in the broker's.

    So a caller's cancel never cuts into the connection, and one connection serves any number of callers.
    """

    def __init__(self, name: str, link: Link, limit: float) -> None:
        self._name = name
        self._link = link
        self._limit = limit
        self._queue: BatchQueue[Letter] = BatchQueue()
        self._closed = False
        #: Why the broker refuses publishes, as a whole and not one message; None when it takes them.
        self.trouble: str | None = None

    def __len__(self) -> int:
        """How many publishes are waiting, for a session or for their confirm."""
        return len(self._queue)

    async def publish(self, outgoing: Outgoing, *, limit: float | None = None) -> None:
        """Return when the broker has confirmed.

        Raises `BrokerUnavailable` if the limit (seconds; the broker's own by default) passed before it was sent, and
        `OutcomeUnknown` if after. A cancel takes the message back if it was not sent yet; if it was, it may be on the
        broker.
        """
        await self.confirm(self.post(outgoing), limit=limit)

    def post(self, outgoing: Outgoing) -> Letter:
        """Queue a message, synchronously: letters leave in the order of these calls. Every one must be `confirm`ed."""
        if self._closed:
            raise trio.ClosedResourceError(f"broker {self._name!r} is closed")
        letter = Letter(outgoing)
        self._queue.put(letter)
        return letter

    async def confirm(self, letter: Letter, *, limit: float | None = None) -> None:
        """Wait for a posted letter's confirm; raises and is cancelled like `publish`."""
        limit = self._limit if limit is None else limit
        try:
            with trio.move_on_after(limit):
                await letter.settled.wait()
        finally:
            letter.abandoned = not letter.settled.is_set()
            self._queue.discard(letter)
        if letter.abandoned:
            if letter.sent:
                raise OutcomeUnknown(
                    f"broker {self._name!r} did not confirm {letter} within {limit:g} s of its publish"
                )
            trouble = self._link.error or self.trouble
            why = f": {trouble}" if trouble else ""
            raise BrokerUnavailable(f"broker {self._name!r} could not be reached within {limit:g} s for {letter}{why}")
        if letter.error is not None:
            raise letter.error

    async def run(self) -> None:
        while True:
            await self._queue.wait()
            session = await self._link.session()
            trouble = self.trouble
            try:
                await session.writable(self._say)
            except SessionLost as loss:
                self._link.lost(session, loss)
                continue
            finally:
                if self.trouble is not trouble:
                    self._say(None)  # what it had to wait for is over
            batch = self._queue.take(MAX_BATCH)
            if not batch:
                continue  # whoever waited for the session has given up
            for letter in batch:
                letter.sent = True
            try:
                # The broker's own limit bounds the confirm too: past it every caller has gone.
                with trio.fail_after(self._limit):
                    results = await session.publish([letter.outgoing for letter in batch])
            except trio.TooSlowError:
                self._link.lost(session, SessionLost(f"a publish was not confirmed within {self._limit:g} s"))
                self._unknown(batch, f"was not confirmed within {self._limit:g} s")
            except SessionLost as loss:
                self._link.lost(session, loss)
                if loss.sent:
                    self._unknown(batch, f"was sent, but the session ended before its confirm: {loss}")
                else:
                    self._send_again(batch)
            except BaseException:
                # A cancel, or a bug of the adapter's that ends the run: nobody will answer these any more.
                self._unknown(batch, "was sent, but its broker was closed before the confirm")
                raise
            else:
                self._settle(batch, results)
            finally:
                self._queue.done(len(batch))

    async def flush(self) -> None:
        """Wait until every publish has its answer."""
        await self._queue.idle()

    def close(self) -> None:
        """From now on `publish` raises `trio.ClosedResourceError`; what is under way goes on."""
        self._closed = True

    def abandon(self) -> None:
        """Fail every publish that was not sent."""
        self._closed = True
        for letter in self._queue.take(len(self._queue)):
            letter.settle(BrokerUnavailable(f"broker {self._name!r} was closed before {letter} was sent"))

    def _settle(self, batch: list[Letter], results: Sequence[Exception | None]) -> None:
        for letter, error in zip(batch, results, strict=True):
            letter.settle(error)
        refusals = [error for error in results if isinstance(error, BrokerUnavailable)]
        self._say(str(refusals[-1]) if refusals else None)

    def _say(self, trouble: str | None) -> None:
        # One line when it begins and one when it is over, not one for each message.
        if trouble is not None and self.trouble is None:
            logger.warning("%s: publishes are refused: %s", self._name, trouble)
        elif trouble is None and self.trouble is not None:
            logger.info("%s: publishes are taken again", self._name)
        self.trouble = trouble

    def _unknown(self, batch: list[Letter], what: str) -> None:
        for letter in batch:
            letter.settle(OutcomeUnknown(f"{letter} {what}"))

    def _send_again(self, batch: list[Letter]) -> None:
        for letter in batch:
            letter.sent = False
        self._queue.put_back(letter for letter in batch if not letter.abandoned)


class Letter:
    """One publish on its way. Compared by identity."""

    __slots__ = ("abandoned", "error", "outgoing", "sent", "settled")

    def __init__(self, outgoing: Outgoing) -> None:
        self.outgoing = outgoing
        self.sent = False
        self.abandoned = False
        self.error: Exception | None = None
        self.settled = trio.Event()

    def settle(self, error: Exception | None) -> None:
        self.error = error
        self.settled.set()

    def __str__(self) -> str:
        return f"message {self.outgoing.message.id} to {self.outgoing.message.destination!r}"
