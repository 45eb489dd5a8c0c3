"""The attention kernels compiled by g++, to run lane by lane on a CPU (cuda_ext/emulate.h)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from cuda_ext import SOURCE
from llama_cli.kernels import extension

GXX = shutil.which("g++")
COMMAND = (
    *("-march=native", "-std=c++17", "-shared", "-fPIC"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-x", "c++"),
)


def compile_emulated(
    folder: Path, source: Path = SOURCE, optimize: str = "-O2"
) -> extension.Library:
    """Build `source` into `folder` and open it."""
    if GXX is None:
        pytest.skip("no g++ to compile the kernels for a CPU with")
    target = folder / "emulated.so"
    subprocess.run([GXX, optimize, *COMMAND, str(source), "-o", str(target)], check=True)
    return extension.load(target)


def schedule(
    library: extension.Library, *, late: bool = True, last_warp_first: bool = False
) -> None:
    """Choose when copies land and which warp runs first, and count from zero."""
    library.emulate(late, last_warp_first)


def counts(library: extension.Library) -> tuple[int, ...]:
    """Return products (mma), loads (ldmatrix) and bank conflicts since `schedule`."""
    found = (ctypes.c_int64 * 3)()
    library.emulated(found)
    return tuple(found)
