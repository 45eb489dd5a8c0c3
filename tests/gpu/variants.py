"""Small problems for every variant of the kernels, straight through the C interface.

    python -m tests.gpu.variants

runs them with memory from the CUDA driver alone: it starts quickly under a tool that watches
every access, and each allocation is exactly as large as what it holds.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cuda_ext import LIBRARY
from llama_cli.kernels.library import Library, Matrix, Problem, failure, load

BATCH, HEADS, KEY_HEADS = 2, 4, 2
QUERY_SIDE = ("q", "out", "grad_out", "grad_q")
KEY_SIDE = ("k", "v", "grad_k", "grad_v")
GIVEN = ("q", "k", "v", "grad_out")
DOCUMENT = 37  # positions; ours, so that documents begin anywhere in a tile


class Memory(Protocol):
    """Where a problem's tensors lie."""

    def put(self, name: str, x: Tensor) -> int:
        """Return the address of a copy of x."""

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Return the address of room for a tensor, with nothing in it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way through the kernels."""

    length: int
    size: int
    dtype: torch.dtype
    deterministic: bool
    packed: bool

    def __str__(self) -> str:
        form = "deterministic" if self.deterministic else "atomics"
        packed = " packed" if self.packed else ""
        return f"{self.length}x{self.size} {str(self.dtype)[6:]} {form}{packed}"

    def shape(self, name: str) -> tuple[int, int, int, int]:
        heads = HEADS if name in QUERY_SIDE else KEY_HEADS
        return BATCH, heads, self.length, self.size

    def problem(self, memory: Memory) -> Problem:
        """Lay everything out in `memory`, each tensor contiguous."""
        matrices = {name: self.matrix(name, memory) for name in QUERY_SIDE + KEY_SIDE}
        rows = (BATCH, HEADS, self.length)
        return Problem(
            **matrices,
            **{name: memory.room(name, rows, torch.float32) for name in ("lse", "delta")},
            **self.optional(memory),
            batch=BATCH,
            heads=HEADS,
            key_heads=KEY_HEADS,
            length=self.length,
            head_size=self.size,
            half=self.dtype == torch.float16,
            scale=self.size**-0.5,
        )

    def matrix(self, name: str, memory: Memory) -> Matrix:
        _, heads, length, size = shape = self.shape(name)
        if name in GIVEN:
            address = memory.put(name, torch.randn(shape).to(self.dtype))
        else:
            address = memory.room(name, shape, self.dtype)
        return Matrix(address, heads * length * size, length * size, size)

    def optional(self, memory: Memory) -> dict[str, int]:
        """Lay out what some variants have: sums for the atomics, and bounds of documents."""
        found = {}
        if not self.deterministic:
            found["sums"] = memory.put("sums", torch.zeros(self.shape("q")))
        if self.packed:
            first = torch.arange(self.length) // DOCUMENT * DOCUMENT
            for name, x in (("first", first), ("end", (first + DOCUMENT).clamp(max=self.length))):
                found[name] = memory.put(name, x.expand(BATCH, -1).contiguous().int())
        return found


VARIANTS = tuple(  # lengths of one row, of a tile and a bit, and of several
    itertools.starmap(
        Variant,
        itertools.product(
            (1, 65, 300), (64, 128), (torch.bfloat16, torch.float16), (True, False), (False, True)
        ),
    )
)


def run(variant: Variant, library: Library, memory: Memory, stream: int = 0) -> None:
    """Run forward and backward.

    Raises:
        LlamaError: the library returned an error.
    """
    problem = variant.problem(memory)
    for direction in ("forward", "backward"):
        code = getattr(library, f"llama_attention_{direction}")(problem, stream)
        if code:
            raise failure(code, library.llama_attention_error(code).decode())


class DriverMemory:
    """Memory of the first GPU, by the CUDA driver's own calls."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.addresses: list[int] = []

    def put(self, name: str, x: Tensor) -> int:
        address = self.room(name, tuple(x.shape), x.dtype)
        source = ctypes.c_void_p(x.data_ptr())
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(x.nbytes))
        return address

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        size = torch.Size(shape).numel() * dtype.itemsize
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self.addresses.append(address.value)
        return address.value

    def wait(self) -> None:
        self.call("cuCtxSynchronize")

    def free(self) -> None:
        for address in self.addresses:
            self.call("cuMemFree_v2", ctypes.c_uint64(address))
        self.addresses.clear()

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.driver, name)(*arguments)
        if code:
            raise SystemExit(f"{name}: error {code} of the CUDA driver")


def main() -> None:
    """Run them all, and say so at the end."""
    library, memory = load(LIBRARY), DriverMemory()
    for variant in VARIANTS:
        run(variant, library, memory)
        memory.wait()
        memory.free()
    print(done(len(VARIANTS)))


def done(number: int) -> str:
    """Return the line that shows that the tool has seen everything."""
    return f"ran {number} variants"


if __name__ == "__main__":
    main()
