"""The table of faults in the documentation: what each fault did on each broker when it was last tried."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

FILE = Path(__file__).parents[2] / "docs" / "faults.md"

HEADING = """\
# What faults do

Measured by the fault tests on real brokers. `./scripts/test --write-fault-table` writes this table again; rows of tests
that did not run stay as they are. Lost and duplicates are messages, inversions are messages handled after a later one
of their key, leftovers are tasks, threads, sockets and files, and recovery is in seconds.
"""

COLUMNS = ("fault", "broker", "lost", "duplicates", "inversions", "leftovers", "recovery")


@dataclass(frozen=True)
class Row:
    """What one fault did on one broker."""

    fault_number: int
    fault: str
    broker: str
    lost: int
    duplicates: int
    inversions: int
    leftovers: int
    recovery_seconds: float | None

    def __post_init__(self) -> None:
        assert "|" not in self.fault + self.broker, "a | would end the cell"

    @property
    def key(self) -> tuple[int, str, str]:
        return self.fault_number, self.broker, self.fault

    def worst(self, other: Row) -> Row:
        """Of two trials of the same, what was worse in each respect."""
        seconds = [s for s in (self.recovery_seconds, other.recovery_seconds) if s is not None]
        return replace(
            self,
            lost=max(self.lost, other.lost),
            duplicates=max(self.duplicates, other.duplicates),
            inversions=max(self.inversions, other.inversions),
            leftovers=max(self.leftovers, other.leftovers),
            recovery_seconds=max(seconds, default=None),
        )


class FaultTable:
    """The rows of one run of the tests."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str, str], Row] = {}

    def add(self, row: Row) -> None:
        """Tried twice, the worse counts."""
        before = self._rows.get(row.key, row)
        self._rows[row.key] = before.worst(row)

    def write(self, file: Path = FILE) -> None:
        """Replace the rows of this run in `file` and keep its others."""
        kept = parse(file.read_text()) if file.exists() else []
        rows = {row.key: row for row in kept} | self._rows
        file.parent.mkdir(exist_ok=True)
        file.write_text(render(rows.values()))


def render(rows: Iterable[Row]) -> str:
    """By fault number, then by broker."""
    lines = [HEADING, _line(COLUMNS), _line(["---"] * 2 + ["--:"] * 5)]
    for row in sorted(rows, key=lambda row: row.key):
        recovery = "" if row.recovery_seconds is None else f"{row.recovery_seconds:.1f}"
        fault = f"{row.fault_number}. {row.fault}"
        lines.append(_line([fault, row.broker, row.lost, row.duplicates, row.inversions, row.leftovers, recovery]))
    return "\n".join(lines) + "\n"


def parse(text: str) -> list[Row]:
    """What `render` wrote."""
    rows = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        number, dot, fault = cells[0].partition(". ")
        if line.startswith("|") and dot and number.isdecimal():
            lost, duplicates, inversions, leftovers = map(int, cells[2:6])
            recovery = float(cells[6]) if cells[6] else None
            rows.append(Row(int(number), fault, cells[1], lost, duplicates, inversions, leftovers, recovery))
    return rows


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
