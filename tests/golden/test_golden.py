"""What users see, word for word: cases/NAME.sh and what it prints and ends with.

A case is a script and NAME.stdout, NAME.stderr, NAME.exit. `make record` writes them anew;
read the difference before you commit it, and say in the changelog what changes for users.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.shell import sh

CASES = sorted((Path(__file__).parent / "cases").glob("*.sh"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_command_prints_and_ends_as_recorded(case: Path, tmp_path: Path) -> None:
    done = sh(case.read_text(encoding="utf-8"), tmp_path)
    found = {".stdout": done.stdout, ".stderr": done.stderr, ".exit": f"{done.returncode}\n"}
    if os.environ.get("RECORD"):
        for suffix, text in found.items():
            case.with_suffix(suffix).write_text(text, encoding="utf-8")
    assert found == {
        suffix: case.with_suffix(suffix).read_text(encoding="utf-8") for suffix in found
    }
