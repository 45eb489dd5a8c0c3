"""Run a command for so long and no longer: a kernel that hangs would hang whoever waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from typing import IO

from tests.shell import ROOT


def run(command: Sequence[str], seconds: float, *, into: IO[bytes] | None = None) -> int | None:
    """Return the command's status, or None if it had to be ended, with all that it started.

    What it prints goes where ours goes, or `into` a file.
    """
    errors = subprocess.STDOUT if into else None
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # what it printed outlives it
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=into, stderr=errors, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:  # out of time, or interrupted
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
