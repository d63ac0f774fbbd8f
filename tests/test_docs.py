"""The pages under docs/ teach what is true: every example runs, as it stands on the page, under pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTING = ROOT / "docs" / "testing.md"


@dataclass(frozen=True)
class Example:
    """A block of Python on a page, the heading above it, and the line that it begins at."""

    page: str
    title: str
    line: int
    code: str

    @property
    def file(self) -> str:
        """A block that begins with its file's name is that file, all others are tests."""
        named = re.match(r"# (\w+\.py)\n", self.code)
        return named[1] if named else "test_" + re.sub(r"\W+", "_", f"{self.page} {self.title}".lower()) + ".py"

    def write(self, folder: Path) -> None:
        """As a file in which each line has the number that it has on the page."""
        (folder / self.file).write_text("\n" * (self.line - 1) + self.code)


def examples(page: Path) -> list[Example]:
    found, title, start = [], "", 0
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line == "```python":
            start = number + 1
        elif line == "```" and start:
            found.append(Example(page.name, title, start, "\n".join(lines[start - 1 : number - 1]) + "\n"))
            start = 0
    return found


def run_pytest(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "-o", "trio_mode=true", "--rootdir", "."]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, file],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


EXAMPLES = examples(TESTING)
SHARED = [example for example in EXAMPLES if not example.file.startswith("test_")]
TESTS = [example for example in EXAMPLES if example.file.startswith("test_")]


def test_the_page_has_five_examples_and_the_application_that_they_share() -> None:
    assert [example.file for example in SHARED] == ["shop.py"]
    assert [example.title[:2] for example in TESTS] == ["1.", "2.", "3.", "4.", "5."]


@pytest.mark.parametrize("example", TESTS, ids=lambda example: example.title)
def test_the_example_passes_as_it_stands(example: Example, tmp_path: Path) -> None:
    for needed in (*SHARED, example):
        needed.write(tmp_path)
    done = run_pytest(tmp_path, example.file)
    if done.returncode:
        pytest.fail(
            f"docs/{example.page} line {example.line}, {example.title!r}; line numbers below are the page's\n"
            f"{done.stdout}{done.stderr}",
            pytrace=False,
        )
    assert "1 passed" in done.stdout


def test_an_example_that_fails_is_reported_with_the_lines_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n## 1. It fails\n\n```python\ndef test_it():\n    assert 1 == 2\n```\n")
    (example,) = examples(page)
    example.write(tmp_path)
    done = run_pytest(tmp_path, example.file)
    assert done.returncode == 1
    assert f"{example.file}:7: AssertionError" in done.stdout


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_into_the_project_leads_somewhere(page: Path) -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target.partition("#")[0]).exists()] == []
