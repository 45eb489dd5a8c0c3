"""The group itself: versions, help, unknown commands, and the names it must not take."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import llama_cli
from tests.shell import ROOT, sh


def test_the_version_is_one_line(tmp_path: Path) -> None:
    assert sh("llama -V", tmp_path).stdout == f"llama {llama_cli.__version__}\n"


def test_the_verbose_version_says_what_would_run(tmp_path: Path) -> None:
    lines = sh("llama --version --verbose", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["llama", "python", "torch"]
    assert any(line.startswith("attention ") for line in lines)


def test_bare_llama_shows_a_pipeline_and_the_commands_in_order(tmp_path: Path) -> None:
    done = sh("llama", tmp_path)
    assert done.returncode == 0
    assert "llama fetch github src/ | llama filter | llama tokenize" in done.stdout
    listed = re.findall(r"^  (\w+)  ", done.stdout.split("Commands:")[1], re.MULTILINE)
    assert listed == ["fetch", "filter", "tokenize", "mix", "train", "eval", "generate", "carbon"]


@pytest.mark.parametrize(
    ("typed", "meant"), [("tokenise", "llama tokenize"), ("zzz", "llama --help")]
)
def test_an_unknown_command_suggests_the_nearest(tmp_path: Path, typed: str, meant: str) -> None:
    done = sh(f"llama {typed}", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"llama: no command '{typed}'\n  try: {meant}\n")


def test_an_unknown_option_is_a_usage_error_without_traceback(tmp_path: Path) -> None:
    done = sh("llama carbon --gpu-hour 3", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_only_llama_is_installed_as_a_script() -> None:
    assert '["llama = llama_cli.__main__:main"]' in (ROOT / "setup.py").read_text()


def test_completion_names_the_commands(tmp_path: Path) -> None:
    script = "from llama_cli.cli import main; main(prog_name='llama')"
    done = sh(
        f'{sys.executable} -c "{script}"',
        tmp_path,
        env={"COMP_WORDS": "llama to", "COMP_CWORD": "1", "_LLAMA_COMPLETE": "bash_complete"},
    )
    assert done.stdout == "plain,tokenize\n"


def test_a_bug_of_ours_is_one_line_and_can_be_traced(tmp_path: Path) -> None:
    broken = (
        "import llama_cli.carbon.estimate as e\n"
        "def fail(*a, **k): raise RuntimeError('two\\nlines')\n"
        "e.estimate = fail\n"
        "from llama_cli.cli import main\n"
        "main(['carbon', '--gpu-hours', '1'])\n"
    )
    (tmp_path / "broken.py").write_text(broken)
    done = sh(f"{sys.executable} broken.py", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "llama carbon: a bug of ours: RuntimeError: two lines\n  try: LLAMA_TRACEBACK=1"
    )
    traced = sh(f"LLAMA_TRACEBACK=1 {sys.executable} broken.py", tmp_path)
    assert "Traceback" in traced.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shipped_completion_is_what_click_generates(shell: str) -> None:
    script = "from llama_cli.cli import main; main(prog_name='llama')"
    env = {"_LLAMA_COMPLETE": f"{shell}_source"}
    done = sh(f'{sys.executable} -c "{script}"', ROOT, env=env)
    assert done.stdout == (ROOT / "docs" / "completion" / f"llama.{shell}").read_text()
