"""What nvcc makes of the kernels: registers, memory, and a library that anything can open."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cuda_ext import SOURCE, build
from llama_cli.errors import NotReadyError
from llama_cli.kernels import library

REGISTERS = Path(__file__).with_name("registers.txt")
MOST_REGISTERS = 255  # a thread's, on every GPU
MOST_SHARED = 99 * 1024  # bytes a block may ask for on sm_86, 89 and 120, the least of any
MOST_SHARED_A100 = 163 * 1024  # and on sm_80; gradients summed by atomics need as much

# What prim.h may say, and the PTX ISA that brought it ("PTX ISA Notes" of each instruction).
# Of CUDA 12, release 12.0 speaks PTX 8.0, 12.1 speaks 8.1, and so on.
INSTRUCTIONS = {
    "mov.": 1.0,
    "ex2.approx.ftz.f32": 1.4,
    "cvt.": 1.0,
    "cvt.rn.f16x2.f32": 7.0,
    "cvt.rn.bf16x2.f32": 7.0,
    "ldmatrix.sync.aligned.m8n8.x4": 6.5,
    "mma.sync.aligned.m16n8k16.row.col": 7.0,
    "cp.async.": 7.0,
    "red.global.add.v2.f32": 8.1,
}


class Kernel(NamedTuple):
    """What ptxas says of one kernel on one architecture."""

    name: str
    architecture: str
    memory: str
    registers: int
    shared: int  # bytes, beside what a launch asks for


def kernels(said: str) -> list[Kernel]:
    """Read the report of -Xptxas -v."""
    pattern = r"Compiling entry function '(\w+)' for '(\w+)'\n.*\n *(.*)\n.*Used (\d+) regi(.*)\n"
    found = re.findall(pattern, said)
    assert len(found) == said.count("Compiling entry function") > 0
    names = demangle([name for name, *_ in found])
    return [
        Kernel(name, architecture, memory, int(registers), int(shared_in(rest)))
        for name, (_, architecture, memory, registers, rest) in zip(names, found, strict=True)
    ]


def shared_in(said: str) -> str:
    found = re.search(r"(\d+) bytes smem", said)
    return found[1] if found else "0"


def demangle(names: list[str]) -> list[str]:
    """Turn _Z7forwardI4Bf16Li64EEv7Problem into forward<Bf16, 64>."""
    done = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
    return [line.removeprefix("void ").split("(")[0] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def made(compiled: tuple[Path, str]) -> list[Kernel]:
    return kernels(compiled[1])


def test_both_gpus_get_every_kernel(made: list[Kernel]) -> None:
    a100, h200 = ({k.name for k in made if k.architecture == x} for x in ("sm_80", "sm_90"))
    assert a100 == h200
    assert {re.sub(".*<(.*)>", r"\1", name)[:8] for name in a100} >= {"Bf16, 64", "Fp16, 12"}


def test_no_kernel_keeps_registers_in_memory(made: list[Kernel]) -> None:
    nothing = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"
    assert [k for k in made if k.memory != nothing or k.registers > MOST_REGISTERS] == []


def test_registers_are_those_recorded(made: list[Kernel]) -> None:
    """More registers can halve the blocks an SM holds: a change is written down with its cause."""
    nvcc = "nvcc {}.{}".format(*build.release(build.find_nvcc()))
    found = [f"{nvcc}: registers a thread, on sm_80 and sm_90"]
    for name in sorted({k.name for k in made}):
        used = {k.architecture: k.registers for k in made if k.name == name}
        found.append(f"{used['sm_80']:3} {used['sm_90']:3} {name}")
    if os.environ.get("RECORD"):
        REGISTERS.write_text("\n".join([*found, ""]))
    recorded = REGISTERS.read_text().splitlines()
    if recorded[0] != found[0]:
        pytest.skip(f"this is {nvcc}, and recorded was {recorded[0]}")
    assert found == recorded


PROBE = """
#define launch emulated_launch
#include "emulate.h"
#undef launch
static int most;
template <class... K, class... A>
int launch(void (*)(K...), dim3, int, int shared_bytes, void*, A...) {
  if (shared_bytes > most) most = shared_bytes;
  return 0;
}
#include "attention.cu"
extern "C" __attribute__((visibility("default"))) int most_shared() { return most; }
"""


def most_shared(folder: Path, head_size: int, sums: int | None) -> int:
    """Return the most bytes that a launch asks for."""
    (folder / "probe.cc").write_text(PROBE)
    command = ["g++", "-O0", "-w", "-std=c++17", "-march=native", "-shared", "-fPIC", "probe.cc"]
    subprocess.run([*command, f"-I{SOURCE.parent}", "-o", "probe.so"], cwd=folder, check=True)
    probe = library.load(folder / "probe.so")
    sizes = {"batch": 1, "heads": 1, "key_heads": 1, "length": 1, "head_size": head_size}
    problem = library.Problem(**sizes, sums=sums)
    probe.llama_attention_forward(problem, None)
    probe.llama_attention_backward(problem, None)
    found: int = probe.most_shared()
    return found


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ to ask the launches with")
@pytest.mark.parametrize("head_size", library.HEAD_SIZES)
@pytest.mark.parametrize(("sums", "limit"), [(None, MOST_SHARED), (1, MOST_SHARED_A100)])
def test_no_launch_asks_for_more_shared_memory_than_a_block_has(
    tmp_path: Path, made: list[Kernel], head_size: int, sums: int | None, limit: int
) -> None:
    found = most_shared(tmp_path, head_size, sums) + max(k.shared for k in made)
    assert 32 * 1024 <= found <= limit


def test_the_digest_is_of_what_nvcc_reads(compiled: tuple[Path, str]) -> None:
    command = [build.find_nvcc(), "-std=c++17", "-MM", str(SOURCE)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    read = {Path(x).resolve() for x in said.replace("\\\n", " ").split(":", 1)[1].split()}
    ours = {path for path in read if path.parent == SOURCE.parent}
    assert ours == set(build.sources())


def test_the_library_says_what_it_was_made_of(compiled: tuple[Path, str]) -> None:
    assert build.fresh(compiled[0])


def test_the_library_exports_its_interface_and_nothing_else(compiled: tuple[Path, str]) -> None:
    command = ["nm", "-D", "--defined-only", str(compiled[0])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    interface = [f"llama_attention_{x}" for x in ("backward", "error", "forward", "version")]
    assert sorted(line.split()[-1] for line in said.splitlines()) == interface


def test_the_library_needs_neither_torch_nor_cuda(compiled: tuple[Path, str]) -> None:
    command = ["readelf", "-d", str(compiled[0])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(\w[\w+-]*?)[-.]", said))
    assert "libc" in needed
    assert needed <= {"libc", "libm", "libstdc++", "libgcc_s", "libdl", "librt", "libpthread", "ld"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_without_a_driver_the_library_opens_and_a_launch_is_a_clear_error(
    compiled: tuple[Path, str],
) -> None:
    opened = library.load(compiled[0])
    sizes = {"batch": 1, "heads": 1, "key_heads": 1, "length": 1, "head_size": 64}
    code = opened.llama_attention_forward(library.Problem(**sizes), None)
    found = library.failure(code, opened.llama_attention_error(code).decode())
    assert isinstance(found, NotReadyError), found


def pythons() -> list[Path]:
    """Find other Pythons: on PATH, or where pyenv keeps them."""
    named = filter(None, (shutil.which(f"python3.{minor}") for minor in range(9, 15)))
    return [*map(Path, named), *Path.home().glob(".pyenv/versions/*/bin/python3")]


def test_every_python_here_opens_the_same_file(compiled: tuple[Path, str]) -> None:
    asks = f"import ctypes; print(ctypes.CDLL({str(compiled[0])!r}).llama_attention_version())"
    for python in pythons():
        done = subprocess.run([python, "-c", asks], capture_output=True, text=True, check=False)
        if "pyenv" not in done.stderr:  # its stand-in for a Python that is not chosen
            assert done.stdout == f"{library.VERSION}\n", (python, done.stderr)


def test_every_instruction_is_in_the_oldest_cuda_that_builds() -> None:
    found = instructions((SOURCE.parent / "prim.h").read_text())
    assert len(found) > 10
    oldest = 8 + build.OLDEST[1] / 10
    for instruction in found:
        known = [isa for name, isa in INSTRUCTIONS.items() if instruction.startswith(name)]
        assert known, f"look up {instruction} in the PTX ISA"
        assert max(known) <= oldest, instruction


def instructions(header: str) -> list[str]:
    """List the PTX a header says: the literals each asm begins with, cut at semicolons."""
    asm = re.findall(r'asm(?: volatile)?\(((?:\s*(?:"[^"]*"|\w+))+)', header.replace("\\\n", ""))
    said = (x.strip(" {}") for text in asm for x in "".join(re.findall('"(.*?)"', text)).split(";"))
    return [x.split()[0] for x in said if x and not x.startswith(".reg")]
