"""Build the library with nvcc: `python -m cuda_ext.build`, or `pip install` by itself.

A plain C library with CUDA's runtime inside, so that one file serves every Python and torch.
It holds code for sm_80 (A100) and sm_90 (H100, H200), and PTX that newer GPUs compile.

What it was made of is its ELF build ID (`readelf -n` shows it): a digest of the sources and
the flags. So a library is built again when they change, and not because files were copied
or checked out. An install builds it where nvcc (CUDA 12.1 or newer) is, and goes on without
it where nvcc is not, or fails.

  LLAMA_BUILD_CUDA=0                     never build
  LLAMA_BUILD_CUDA=1                     always build, and fail where that cannot be
  CUDA_HOME=/opt/cuda-12.4               use the nvcc in its bin
  NVCC_PREPEND_FLAGS='-ccbin g++-13'     nvcc's own: another host compiler

Exits with 0 when the library is there, built or kept, and with 1 and a sentence when not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cuda_ext import LIBRARY, SOURCE

OLDEST = (12, 1)  # the first to have all of prim.h: red.v2.f32 is of PTX ISA 8.1
FLAGS = (
    *("-O3", "-std=c++17", "-shared", "-cudart", "static"),
    *("-Xcompiler", "-fPIC,-fvisibility=hidden"),
    *("-Xlinker", "--strip-all", "-Xlinker", "--no-undefined"),
    *("-gencode", "arch=compute_80,code=[sm_80,compute_80]"),
    *("-gencode", "arch=compute_90,code=sm_90"),
)
BUILT_FOR = "sm_80, sm_90 and PTX"
IN_PARALLEL = ("--threads", "0")  # one a GPU architecture, as far as there are cores
EMULATION = {"emulate.h", "fibers.h"}  # what g++ alone reads


def sources() -> list[Path]:
    """List the files that nvcc reads."""
    headers = SOURCE.parent.glob("*.h")
    return [SOURCE, *sorted(x for x in headers if x.name not in EMULATION)]


def digest() -> str:
    """Name, in hexadecimal, what a library is made of: sources, flags and kind of processor."""
    whole = hashlib.sha256(repr((FLAGS, platform.machine())).encode())
    for source in sources():
        whole.update(repr((source.name, source.read_bytes())).encode())
    return whole.hexdigest()


def fresh(library: Path = LIBRARY) -> bool:
    """Say whether the library is there and was built from the sources beside this file."""
    return library.exists() and bytes.fromhex(digest()) in library.read_bytes()


def find_nvcc() -> str:
    """Find nvcc: under CUDA_HOME if that is set, on PATH, or where CUDA installs itself.

    Raises:
        RuntimeError: there is none.
    """
    home = os.environ.get("CUDA_HOME")
    if home:
        nvcc = shutil.which("nvcc", path=str(Path(home) / "bin"))
    else:
        nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        raise RuntimeError(f"no nvcc in CUDA_HOME ({home}/bin)" if home else "no nvcc on PATH")
    return nvcc


def release(nvcc: str) -> tuple[int, int]:
    """Return the CUDA release an nvcc is of, (12, 4).

    Raises:
        RuntimeError: it is older than the kernels need, or no nvcc at all.
    """
    found = re.search(r"release (\d+)\.(\d+)", run([nvcc, "--version"]))
    if not found:
        raise RuntimeError(f"{nvcc} --version names no release")
    major, minor = int(found[1]), int(found[2])
    if (major, minor) < OLDEST:
        oldest = "{}.{}".format(*OLDEST)
        raise RuntimeError(f"{nvcc} is of CUDA {major}.{minor}, and {oldest} or newer is needed")
    return major, minor


def asked() -> str:
    """Return what the user wants: "0" never, "1" always, "" where it can be."""
    value = os.environ.get("LLAMA_BUILD_CUDA", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"LLAMA_BUILD_CUDA is 0 or 1, not '{value}'")
    return value


def why_not() -> str | None:
    """Say why an install leaves the library out; None when it is to have it."""
    if asked() == "0":
        return "LLAMA_BUILD_CUDA=0"
    if asked() == "1" or fresh():
        return None
    try:
        find_nvcc()
    except RuntimeError as error:
        return str(error)
    return None


def obtain(target: Path = LIBRARY) -> str:
    """Put a library made of these sources at `target`, and return the line that says how.

    One that is there already, at `target` or beside the sources, is kept.

    Raises:
        RuntimeError: it cannot be built, or not be written; in one line, why.
    """
    for made in (LIBRARY, target):
        if asked() != "1" and fresh(made):
            put(made, target)
            return f"kept {target.name}, built from these sources"
    begun = time.monotonic()
    nvcc = find_nvcc()
    used = "{} {}.{}".format(nvcc, *release(nvcc))
    compile_to(target)
    seconds, size = time.monotonic() - begun, target.stat().st_size / 1e6
    return f"built {target.name} for {BUILT_FOR} with {used} in {seconds:.0f} s, {size:.1f} MB"


def compile_to(target: Path, *flags: str) -> str:
    """Compile to `target` and return what nvcc said."""
    with staged(target) as part:
        made_of = ("-Xlinker", f"--build-id=0x{digest()}")
        command = [find_nvcc(), *FLAGS, *IN_PARALLEL, *made_of, *flags]
        return run([*command, str(SOURCE), "-o", str(part)])


def put(library: Path, target: Path) -> None:
    """Copy a library to where it is not yet."""
    if not (target.exists() and target.samefile(library)):
        with staged(target) as part:
            shutil.copy2(library, part)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a path to write to, and move the file to `target` at the end, at once and whole.

    Two builds at a time do not tear each other's file, and a process that has the old one
    open keeps it.
    """
    try:
        with tempfile.TemporaryDirectory(".part", f".{target.name}.", target.parent) as folder:
            part = Path(folder, target.name)
            yield part
            part.replace(target)
    except OSError as error:
        raise RuntimeError(f"cannot write {target}: {error.strerror}") from None


def run(command: list[str]) -> str:
    """Run a compiler and return what it said.

    Raises:
        RuntimeError: it could not be started, or failed; its first line of complaint.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]}: {error.strerror}") from None
    said = done.stderr + done.stdout
    if done.returncode:
        raise RuntimeError(
            f"{Path(command[0]).name} failed: {complaint(said) or f'status {done.returncode}'}"
        )
    return said


def complaint(said: str) -> str:
    """Pick the line that tells most: warnings and what includes what may come before it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = re.compile(r"\b(error|fatal|undefined|cannot find|No such file|not found)\b")
    return next(filter(telling.search, lines), lines[0] if lines else "")


def main() -> None:
    """Build what is beside this file, unless it is built."""
    prog, raw = "python -m cuda_ext.build", argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(prog, description=__doc__, formatter_class=raw).parse_args()
    try:
        if asked() == "0":
            raise RuntimeError("LLAMA_BUILD_CUDA=0")
        print(f"cuda_ext: {obtain()}")
    except RuntimeError as error:
        raise SystemExit(f"cuda_ext: not built: {error}") from None


if __name__ == "__main__":
    main()
