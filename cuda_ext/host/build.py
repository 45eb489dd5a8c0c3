"""Build the library for CPUs: `python -m cuda_ext.host.build`, or `pip install` by itself.

With the machine's C++ compiler (CXX, c++, g++ or clang++), in seconds. One file has the code for
AVX-512, for AVX2 and for any other processor, and takes at run time what is there. An install
goes on without it where there is no compiler, and `llama` then runs models by PyTorch alone.

  LLAMA_BUILD_HOST=0     never build
  CXX=clang++            the compiler

Its ELF build ID is a digest of the sources and the flags, so that it is built again when they
change. Exits with 0 when the library is there, built or kept, and with 1 and a sentence when not.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_ext.build import put, run, staged
from cuda_ext.host import LIBRARY

HERE = Path(__file__).parent
FLAGS = (
    *("-O3", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    "-w",  # GCC 12 warns of its own AVX-512 header; ours are without under -Wall -Wextra
)
# the first is whose copy of a standard template is kept: it must run on every processor
VARIANTS = {
    "base": (),
    "avx512": (*(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni")), "-mfma"),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
}
COMPILERS = ("c++", "g++", "clang++")


def sources() -> list[Path]:
    """List the files that the compiler reads."""
    return sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])


def digest() -> str:
    """Name, in hexadecimal, what a library is made of: sources, flags and kind of processor."""
    whole = hashlib.sha256(repr((FLAGS, VARIANTS, platform.machine())).encode())
    for source in sources():
        whole.update(repr((source.name, source.read_bytes())).encode())
    return whole.hexdigest()


def fresh(library: Path = LIBRARY) -> bool:
    """Say whether the library is there and was built from the sources beside this file."""
    return library.exists() and bytes.fromhex(digest()) in library.read_bytes()


def find_compiler() -> list[str]:
    """Find CXX, which may be several words ("ccache g++"), or the first of the usual ones on PATH.

    Raises:
        RuntimeError: there is none.
    """
    asked = os.environ.get("CXX")
    for name, *words in [shlex.split(asked)] if asked else ([name] for name in COMPILERS):
        found = shutil.which(name)
        if found:
            return [found, *words]
    raise RuntimeError(f"no {asked}" if asked else "no C++ compiler on PATH")


def why_not() -> str | None:
    """Say why an install leaves the library out; None when it is to have it."""
    if os.environ.get("LLAMA_BUILD_HOST") == "0":
        return "LLAMA_BUILD_HOST=0"
    if fresh():
        return None
    try:
        find_compiler()
    except RuntimeError as error:
        return str(error)
    return None


def obtain(target: Path = LIBRARY) -> str:
    """Put a library made of these sources at `target`, and return the line that says how.

    Raises:
        RuntimeError: it cannot be built, or not be written; in one line, why.
    """
    for made in (LIBRARY, target):
        if fresh(made):
            put(made, target)
            return f"kept {target.name}, built from these sources"
    begun = time.monotonic()
    compile_to(target)
    return f"built {target.name} for CPUs in {time.monotonic() - begun:.0f} s"


def compile_to(target: Path) -> None:
    """Compile the variants of this kind of processor beside each other, and link them."""
    wanted = VARIANTS if platform.machine() in ("x86_64", "AMD64") else {"base": ()}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        parts = {Path(folder, f"{name}.o"): (name, flags) for name, flags in wanted.items()}
        list(pool.map(_compile, parts, parts.values()))
        link = ("-shared", "-pthread", f"-Wl,--build-id=0x{digest()}", "-Wl,--strip-all")
        with staged(target) as part:
            door = (*FLAGS, str(HERE / "dispatch.cpp"))
            run([*find_compiler(), *door, *map(str, parts), *link, "-o", str(part)])


def _compile(part: Path, variant: tuple[str, tuple[str, ...]]) -> None:
    name, flags = variant
    source = str(HERE / "variant.cpp")
    run([*find_compiler(), *FLAGS, *flags, f"-DVARIANT={name}", "-c", source, "-o", str(part)])


def main() -> None:
    """Build what is beside this file, unless it is built."""
    try:
        print(f"cuda_ext.host: {obtain()}")
    except RuntimeError as error:
        raise SystemExit(f"cuda_ext.host: not built: {error}") from None


if __name__ == "__main__":
    main()
