"""The README says what is true: its diagram, its links, its commands, its example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.delivery import diagram

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_diagram_is_drawn_from_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in README


def test_every_link_into_the_project_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("number", range(1, 10))
def test_every_promise_names_tests_that_are_marked_with_it(number: int) -> None:
    (row,) = [line for line in README.splitlines() if line.startswith(f"| P{number} |")]
    files = re.findall(r"\(([^)]+\.py)\)", row)
    assert files
    for file in files:
        assert re.search(rf'promise\([^)]*"P{number}"', (ROOT / file).read_text()), f"{file} has no test of P{number}"


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", README)
    assert len(named) == 5
    for test, file in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:20])
    assert "runtime run examples.orders" in first_screen
    assert "./scripts/test" in first_screen


def test_the_example_is_a_module_that_loads() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    assert repr(names["app"]).startswith("<runtime.app.Runtime")
