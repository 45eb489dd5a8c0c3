"""What a measurement was made on and with: GPU, driver, versions, commit."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime

import torch

from cuda_ext import build
from tests.shell import ROOT


def heading(what: str) -> str:
    """Return the title of a section of docs/benchmarks.md, and a line under it."""
    return f"## {datetime.now(UTC):%Y-%m-%d}, `make gpu`: {what}\n\n{', '.join(parts())}"


def parts() -> list[str]:
    """List GPU, driver, versions and, in a checkout, the commit."""
    driver = said("nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader")
    python = ".".join(map(str, sys.version_info[:3]))
    found = [
        torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        f"driver and power limit {driver.splitlines()[0]}" if driver else "",
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {python}",
        nvcc(),
        commit(),
    ]
    return [x for x in found if x]


def nvcc() -> str:
    """Name the release of the nvcc that builds the library."""
    try:
        path = build.find_nvcc()
    except RuntimeError:
        return ""
    release = re.search(r"release ([\d.]+)", said(path, "--version"))
    return f"nvcc {release[1]}" if release else ""


def commit() -> str:
    """Name the commit, and say whether anything beside it was changed."""
    name = said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = said("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"commit {name}{' with changes' if changed else ''}" if name else ""


def said(*command: str) -> str:
    """Return what a command printed; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def first_line(error: Exception, most: int = 60) -> str:
    """Return what fits a table of an error's message.

    >>> first_line(RuntimeError("no kernel | here\\nsecond line"))
    'no kernel / here'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].replace("|", "/")[:most]
