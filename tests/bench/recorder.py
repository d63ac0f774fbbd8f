"""What a fault did to the messages: counted while it happens, checked at the end.

    with Recorder(4, "TCP reset in mid-frame", broker="redis") as recorder:
        async with open_proxy(server.port) as proxy:
            ...                                 # confirmed(id) after a publish, handled(id, key) in the handler
            recorder.mark_fault(unsettled=subscription.unsettled)
            proxy.reset()
            ...
            recorder.fault("connections reset", proof=proxy.resets)
        fault_table.add(recorder.check(duplicates_at_most=recorder.unsettled, recovery_within=5))

`check` comes after the proxy and the application are closed, or they count as leftovers.
"""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Self

from .leaks import Holdings
from .table import Row


class Recorder:
    """Of one fault on one broker. May be told from several threads."""

    def __init__(self, fault_number: int, fault: str, *, broker: str) -> None:
        #: Messages that the fault may deliver again: see `mark_fault`.
        self.unsettled = 0
        self._title = (fault_number, fault, broker)
        self._confirmed: list[tuple[float, int]] = []
        self._handled: list[tuple[float, int, Hashable]] = []
        self._settled: list[int] = []
        self._unknown: list[int] = []
        self._began: float | None = None
        self._recovered: float | None = None
        self._proofs: list[tuple[str, Callable[[], object]]] = []
        self._checked = False
        self._before = Holdings.now()

    def __enter__(self) -> Self:
        gc.collect()
        self._before = Holdings.now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert error is not None or self._checked, f"fault {self._name}: recorded and never checked"

    # What the test tells. Ids of one key rise in the order of publishing.

    def confirmed(self, message: int) -> None:
        """The broker has it: its publish returned."""
        self._confirmed.append((time.monotonic(), message))

    def handled(self, message: int, key: Hashable = None) -> None:
        """A handler has seen it. Order counts among the messages of a key, unless that is None."""
        self._handled.append((time.monotonic(), message, key))

    def settled(self, message: int) -> None:
        """Its acknowledgement is certain: the broker may not deliver it again."""
        self._settled.append(message)

    def outcome_unknown(self, message: int) -> None:
        """Its publish failed without an answer: it may have arrived or not."""
        self._unknown.append(message)

    def mark_fault(self, *, unsettled: int | None = None) -> None:
        """The clock of the recovery starts: the fault begins, or ends if only then anything can recover.

        `unsettled` is how many messages the broker may deliver again, from a status; else it is those that were
        handled and not settled, as told.
        """
        self._began, self._recovered = time.monotonic(), None
        self.unsettled = len(self._ids_handled() - set(self._settled)) if unsettled is None else unsettled

    def mark_recovered(self) -> None:
        """The clock stops. Without this, it stops at the first message confirmed or handled after the mark."""
        self._recovered = time.monotonic()

    def fault(self, what: str, *, proof: object) -> None:
        """The fault did happen, and this shows it: something true, or a function of which `check` asks that."""
        self._proofs.append((what, proof if callable(proof) else lambda: proof))

    # What came of it

    @property
    def lost(self) -> list[int]:
        """Confirmed and never handled."""
        return sorted({message for _, message in self._confirmed} - self._ids_handled())

    @property
    def duplicates(self) -> int:
        """Handlings beyond the first of each message."""
        return len(self._handled) - len(self._ids_handled())

    @property
    def inversions(self) -> list[int]:
        """Handled for the first time after a later message of its key. A repetition is a duplicate and none of these."""
        inverted, latest = [], dict[Hashable, int]()
        seen = defaultdict[Hashable, set[int]](set)
        for _, message, key in list(self._handled):
            if key is None or message in seen[key]:
                continue
            seen[key].add(message)
            if message < latest.get(key, message):
                inverted.append(message)
            else:
                latest[key] = message
        return inverted

    @property
    def unknown(self) -> list[int]:
        """Publishes of unknown outcome."""
        return sorted(self._unknown)

    @property
    def recovery_seconds(self) -> float | None:
        """From the mark to the recovery; None without a mark, or as long as nothing came after it."""
        if self._began is None:
            return None
        told = [moment for moment, _ in list(self._confirmed)] + [moment for moment, _, _ in list(self._handled)]
        end = self._recovered or min((moment for moment in told if moment > self._began), default=None)
        return None if end is None else end - self._began

    def leftovers(self) -> dict[str, int]:
        """What is held beyond what was held when the block began."""
        gc.collect()
        before, now = self._before, Holdings.now()
        more = {
            "threads": len(now.threads - before.threads),
            "sockets": now.sockets - before.sockets,
            "files": now.files - before.files,
            "tasks": now.tasks - before.tasks,
        }
        return {kind: count for kind, count in more.items() if count > 0}

    def check(
        self,
        *,
        lost: int = 0,
        duplicates_at_most: int = 0,
        inversions: int = 0,
        leftovers: int = 0,
        recovery_within: float | None = None,
    ) -> Row:
        """Fail, saying everything that is wrong, or return what happened. Counts are the most that is allowed."""
        left, seconds = self.leftovers(), self.recovery_seconds
        wrong = [f"no proof of it: {what}" for what, proof in self._proofs if not proof()]
        if not self._proofs:
            wrong.append("nothing proves that it happened")
        if len(self.lost) > lost:
            wrong.append(f"{len(self.lost)} lost, {lost} allowed: {_some(self.lost)}")
        if self.duplicates > duplicates_at_most:
            times = Counter(message for _, message, _ in self._handled)
            twice = sorted(message for message, count in times.items() if count > 1)
            wrong.append(f"{self.duplicates} duplicates, {duplicates_at_most} allowed: {_some(twice)}")
        if len(self.inversions) > inversions:
            wrong.append(f"{len(self.inversions)} out of order, {inversions} allowed: {_some(self.inversions)}")
        if sum(left.values()) > leftovers:
            wrong.append(f"left over, {leftovers} allowed: {left}")
        if recovery_within is not None and (seconds is None or seconds > recovery_within):
            took = "no recovery" if seconds is None else f"recovery took {seconds:.1f} s"
            wrong.append(f"{took}, {recovery_within:g} s allowed")
        assert not wrong, f"fault {self._name}:\n  " + "\n  ".join(wrong)
        self._checked = True
        return Row(*self._title, len(self.lost), self.duplicates, len(self.inversions), sum(left.values()), seconds)

    @property
    def _name(self) -> str:
        number, fault, broker = self._title
        return f"{number} on {broker}, {fault}"

    def _ids_handled(self) -> set[int]:
        return {message for _, message, _ in list(self._handled)}


def _some(messages: list[int]) -> str:
    return ", ".join(map(str, messages[:10])) + (", …" if len(messages) > 10 else "")
