"""Every command of the tutorial works, in order, in an empty directory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.shell import ROOT, sh

BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def test_the_tutorial_can_be_followed(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text())
    assert len(blocks) > 8
    script = f'python() {{ {sys.executable} "$@"; }}\nset -e\n' + "\n".join(blocks)
    done = sh(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "bits_per_byte" in done.stdout
    assert "32.5" in done.stdout + done.stderr
    assert (tmp_path / "first" / "loss.png").stat().st_size > 1000


def test_the_pipeline_of_the_readme_is_that_of_the_quickstart() -> None:
    """The README's lines are the demo's but for names, so one cannot rot alone."""
    readme, script = ((ROOT / name).read_text() for name in ("README.md", "docs/quickstart.sh"))
    commands = re.compile(r"\bllama (\w+)")
    (pipeline,) = [block for block in BLOCK.findall(readme) if "llama fetch" in block]
    assert set(commands.findall(pipeline)) == set(commands.findall(script))
