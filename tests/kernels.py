"""What tests of the attention kernels share, on a CPU and on a GPU.

The definition to compare with, and the kernels compiled by g++ to run lane by lane on a CPU
(cuda_ext/emulate.h).
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cuda_ext import SOURCE
from llama_cli.kernels import extension
from llama_cli.kernels.library import Library, load

EXACT = 5e-6  # an element's fp32 rounding, where plain attention makes no error: length 1

GXX = shutil.which("g++")
COMMAND = (
    *("-march=native", "-std=c++17", "-shared", "-fPIC"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-x", "c++"),
)


def inputs(
    length: int,
    size: int,
    dtype: torch.dtype,
    *,
    heads: int = 2,
    key_heads: int | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Make q, k, v and the gradient of out, (2, heads, length, size), laid out as a model does."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for count in (heads, key_heads or heads, key_heads or heads, heads):
        whole = torch.randn((2, length, count, size), generator=generator)
        made.append(whole.to(dtype).transpose(1, 2))
    return made


def definition(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Causal attention step by step, each step in the dtype of its inputs."""
    return masked_scores(q, k, bounds).softmax(-1) @ for_each_query(q, v)


def masked_scores(q: Tensor, k: Tensor, bounds: Tensor | None = None) -> Tensor:
    scores = q @ for_each_query(q, k).mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~visible(q, bounds), -math.inf)


def for_each_query(q: Tensor, k: Tensor) -> Tensor:
    """Repeat key heads, so that there is one for each query head."""
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def visible(q: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Mark what each query sees: (batch or 1, 1, length, length)."""
    position = torch.arange(q.shape[2], device=q.device)
    seen = position <= position[:, None]
    if bounds is not None:
        seen = seen & (position >= bounds[0][:, :, None])
    return seen.view(-1, 1, *seen.shape[-2:])


def results(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor
) -> dict[str, Tensor]:
    """Return out and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)
    return dict(zip("qkv", torch.autograd.grad(out, leaves, grad_out), strict=True), out=out)


def error(found: Tensor, true: Tensor) -> float:
    return (found.detach().double() - true.detach()).norm().item()


def check_errors(
    given: list[Tensor], bounds: Tensor | None = None, *, deterministic: bool = True
) -> None:
    """Assert that errors are at most twice those of plain attention in the same dtype."""
    plainly = partial(definition, bounds=bounds)
    attend = partial(extension.causal_attention, bounds=bounds, deterministic=deterministic)
    true = results(plainly, *(x.double() for x in given))
    compare(results(attend, *given), results(plainly, *given), true)


def compare(ours: dict[str, Tensor], plain: dict[str, Tensor], true: dict[str, Tensor]) -> None:
    for name, x in true.items():
        most = 2 * error(plain[name], x) + EXACT * x.numel() ** 0.5
        assert error(ours[name], x) <= most, name  # not so if it is NaN


def same_bits(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(torch.equal(x, others[name]) for name, x in some.items())


def compile_emulated(folder: Path, source: Path = SOURCE, *flags: str) -> Library:
    """Build `source` into `folder` and open it."""
    if GXX is None:
        pytest.skip("no g++ to compile the kernels for a CPU with")
    target = folder / "emulated.so"
    subprocess.run([GXX, *COMMAND, *(flags or ["-O2"]), str(source), "-o", str(target)], check=True)
    return load(target)


def schedule(library: Library, *, late: bool = True, last_warp_first: bool = False) -> None:
    """Choose when copies land and which warp runs first, and count from zero."""
    library.emulate(late, last_warp_first)


def counts(library: Library) -> tuple[int, ...]:
    """Return products (mma), loads (ldmatrix) and bank conflicts since `schedule`."""
    found = (ctypes.c_int64 * 3)()
    library.emulated(found)
    return tuple(found)
