"""Run a script the way a user's terminal does: real processes under bash -o pipefail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
LLAMA = f"{sys.executable} -m llama_cli"


def sh(
    script: str, cwd: Path, *, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `script`; `llama` in it is this checkout's. Only PATH and the given `env` are set.

    Without `stdin` the script's input is /dev/null.
    """
    kept = {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "COV_"))}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'llama() {{ {LLAMA} "$@"; }}; {script}'],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            **kept,
            **(env or {}),
        },
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        check=False,
    )
