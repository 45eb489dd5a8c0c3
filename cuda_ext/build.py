"""Build the library with nvcc: `python -m cuda_ext.build`, or `pip install` by itself.

A plain C library with CUDA's runtime inside, so that one file serves every Python and torch.
It holds code for sm_80 (A100) and sm_90 (H100, H200), and PTX that newer GPUs compile.
LLAMA_BUILD_CUDA=0 never builds, =1 always does and fails if it cannot; otherwise it is built
when nvcc is there and a source is newer than the library, and no failure stops an install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cuda_ext import LIBRARY, SOURCE

FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-cudart", "static"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xlinker", "--strip-all"),
    *("-gencode", "arch=compute_80,code=[sm_80,compute_80]"),
    *("-gencode", "arch=compute_90,code=sm_90"),
)
BUILT_FOR = "sm_80, sm_90 and PTX"


def sources() -> list[Path]:
    """List what the library is made of."""
    return [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]


def find_nvcc() -> str | None:
    """Find nvcc: under CUDA_HOME if that is set, on PATH, or where CUDA installs itself."""
    home = os.environ.get("CUDA_HOME")
    if home:
        return shutil.which("nvcc", path=str(Path(home) / "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def wanted() -> tuple[bool, str]:
    """Decide whether to build, and say why not."""
    asked = os.environ.get("LLAMA_BUILD_CUDA", "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"LLAMA_BUILD_CUDA is 0 or 1, not '{asked}'")
    if asked == "0":
        return False, "LLAMA_BUILD_CUDA=0"
    if asked != "1" and find_nvcc() is None:
        return False, "no nvcc on PATH"
    return True, ""


def fresh() -> bool:
    """Say whether the library beside the sources is newer than all of them."""
    if os.environ.get("LLAMA_BUILD_CUDA") == "1" or not LIBRARY.exists():
        return False
    return LIBRARY.stat().st_mtime >= max(source.stat().st_mtime for source in sources())


def build(target: Path = LIBRARY, *flags: str) -> str:
    """Compile to `target` and return what nvcc said.

    Raises:
        RuntimeError: nvcc is not there, or failed; its first line of complaint.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("no nvcc on PATH")
    command = [nvcc, *FLAGS, *flags, str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"nvcc failed: {next((x for x in lines if 'error' in x), lines[0])}")
    return done.stderr + done.stdout


if __name__ == "__main__":
    try:
        build()
    except RuntimeError as error:
        raise SystemExit(f"cuda_ext: not built: {error}") from None
    print(f"cuda_ext: built {LIBRARY.name} for {BUILT_FOR} with {find_nvcc()}")
