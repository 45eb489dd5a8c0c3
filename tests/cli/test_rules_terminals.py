"""What a person at a terminal sees, and what a log keeps of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.lines import good, ids, write
from tests.shell import LLAMA, ROOT, on_terminal, sh

STREAMING = ["filter", "tokenize", "mix"]


# 2, 7, 20, 28: terminals


@pytest.mark.parametrize("name", STREAMING)
def test_a_terminal_as_input_gets_help_and_2_at_once(tmp_path: Path, name: str) -> None:
    code, shown = on_terminal(f"llama {name}", tmp_path)
    assert code == 2
    assert f"Usage: llama {name}" in shown or f"Usage: python -m llama_cli {name}" in shown


def test_a_changing_line_is_wiped_before_the_summary(tmp_path: Path) -> None:
    write(tmp_path / "in", 60_000)
    code, shown = on_terminal("llama filter in > out", tmp_path)
    assert code == 0
    assert "\x1b[K" in shown
    assert shown.rstrip().split("\x1b[K")[-1].startswith("llama filter: 0.")


def test_no_line_changes_where_there_is_no_terminal(tmp_path: Path) -> None:
    write(tmp_path / "in", 60_000)
    assert "\r" not in sh("llama filter in > out", tmp_path).stderr


def test_without_a_terminal_a_plain_line_comes_now_and_then(tmp_path: Path) -> None:
    write(tmp_path / "in", 30_000)
    script = (
        "import llama_cli.stream.progress as progress\n"
        "assert progress.LOG_SECONDS == 30\n"
        "progress.LOG_SECONDS = 0.0\n"
        "from llama_cli.cli import main\n"
        "main(['filter', 'in', '-o', 'out'])\n"
    )
    (tmp_path / "often.py").write_text(script)
    lines = sh(f"{sys.executable} often.py", tmp_path).stderr.splitlines()
    assert len(lines) > 2
    for line in lines[:-1]:
        assert re.fullmatch(r"llama filter: [\d,]+ in, [\d,]+ out, 0 rejected, [\d,]+/s", line)


RED = "\x1b[31m\x1b[1mllama filter:\x1b[0m nothing: "


@pytest.mark.parametrize(
    ("command", "red"),
    [
        ("llama filter nothing", True),
        ("llama filter --color never nothing", False),
        ("NO_COLOR=1 llama filter nothing", False),
        ("NO_COLOR=1 llama filter --color always nothing", True),
        ("NO_COLOR= llama filter nothing", True),
        ("TERM=dumb llama filter nothing", False),
        ("TERM=dumb FORCE_COLOR=1 llama filter nothing", True),
    ],
)
def test_a_fatal_error_has_colour_on_a_terminal_unless_told(
    tmp_path: Path, command: str, red: bool
) -> None:
    code, shown = on_terminal(command, tmp_path)
    assert code == 1
    assert (RED in shown, "\x1b" in shown) == (red, red)


def test_without_a_terminal_only_force_gives_colour_and_data_has_none(tmp_path: Path) -> None:
    write(tmp_path / "in", 2)
    assert "\x1b" not in sh("llama filter nothing", tmp_path).stderr
    for force in ("FORCE_COLOR=1 llama filter", "llama filter --color always"):
        assert RED in sh(f"{force} nothing", tmp_path).stderr
        assert ids(sh(f"{force} in", tmp_path).stdout) == [0, 1]


def test_records_are_flushed_one_by_one_when_asked(tmp_path: Path) -> None:
    process = subprocess.Popen(
        f"{LLAMA} filter --line-buffered -q".split(),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    block = "".join(good(number) + "\n" for number in range(300)).encode()
    process.stdin.write(block)
    process.stdin.flush()
    assert process.stdout.readline().startswith(b'{"id":"0"')
    process.stdin.close()
    process.stdout.read()
    assert process.wait() == 0
    process.stdout.close()
