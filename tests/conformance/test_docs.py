"""The page about the suite shows what runs, and a user's own test file needs no more than it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "docs" / "conformance.md").read_text()


def test_the_example_on_the_page_is_the_embedded_brokers_own_test_file() -> None:
    assert f"```python\n{(HERE / 'test_memory.py').read_text()}```" in PAGE


@pytest.mark.parametrize("options", [["-o", "trio_mode=true"], []], ids=["trio-mode", "plain"])
def test_the_example_runs_in_a_folder_of_its_own_and_says_what_it_skipped_and_why(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "test_example.py").write_text((HERE / "test_memory.py").read_text())
    # One theme will do: each test of the suite runs in TestMemory as well.
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-k", "lease or held", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    assert "7 passed, 3 skipped" in done.stdout
    assert "MemoryRig has no take_lease()" in done.stdout
    assert "Features.lease is 'session'" in done.stdout


def test_the_test_kit_itself_can_be_imported_without_pytest(tmp_path: Path) -> None:
    script = "import sys, runtime.testing; print('pytest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
