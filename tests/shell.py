"""Run a script the way a user's terminal does: real processes under bash -o pipefail."""

from __future__ import annotations

import os
import pty
import select
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
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'llama() {{ {LLAMA} "$@"; }}; {script}'],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            **_coverage(),
            **(env or {}),
        },
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        check=False,
    )


def on_terminal(command: str, cwd: Path, *, keys: bytes = b"") -> tuple[int, str]:
    """Run with a terminal for all three standard streams."""
    main, side = pty.openpty()
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "TERM": "xterm", **_coverage()}
    process = subprocess.Popen(
        ["bash", "-c", command.replace("llama ", f"{LLAMA} ")],
        cwd=cwd,
        stdin=side,
        stdout=side,
        stderr=side,
        env=env,
        start_new_session=True,
    )
    os.close(side)
    os.write(main, keys)
    shown = b""
    while select.select([main], [], [], 30)[0]:
        try:
            data = os.read(main, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(main)
    return process.wait(30), shown.decode()


def _coverage() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "COV_"))}
