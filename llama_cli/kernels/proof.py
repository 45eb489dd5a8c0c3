"""Does the kernel compute attention on this very GPU? A small trial, once a process, says.

A library is built on one machine and run on another, by a compiler and a driver that nobody
tested it with. Before `auto` takes it, forward and backward are compared with the definition
in fp64 and must not err by more than twice what plain attention does in the same dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from llama_cli.errors import LlamaError
from llama_cli.kernels.extension import causal_attention
from llama_cli.kernels.library import HEAD_SIZES

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

HEADS, KEY_HEADS, LENGTH = 2, 1, 200  # ours: several tiles, the last one not whole
TIMES = 2  # as large an error as plain attention's; the kernel's own tests allow as much
EXACT = 5e-6  # an element's rounding in fp32, where plain attention makes no error
NAMES = ("out", "the gradient of q", "the gradient of k", "the gradient of v")


@cache
def fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Say what is wrong with the kernel's results on `device`; None if nothing is.

    Takes some milliseconds and draws from no generator but its own. It may be called within
    whatever PyTorch keeps for a thread: autocast, no_grad, a default device, a checkpoint that
    counts what is saved, a mode that counts FLOPs. So it runs on a thread of its own.
    """
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(_first_fault, device, dtype).result()


def _first_fault(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        found = (_fault(device, dtype, size) for size in HEAD_SIZES)
        return next(filter(None, found), None)
    except LlamaError as error:
        return str(error)


def _fault(device: torch.device, dtype: torch.dtype, size: int) -> str | None:
    given = _inputs(device, dtype, size)
    true = _results(plain, [x.double() for x in given])
    usual, ours = _results(plain, given), _results(causal_attention, given)
    for name, x, theirs, mine in zip(NAMES, true, usual, ours, strict=True):
        allowed = TIMES * _error(theirs, x) + EXACT * math.sqrt(x.numel())
        found = _error(mine, x)
        if not found <= allowed:  # NaN is not
            return f"{name} is off by {found:.2g} with heads of {size}, more than {allowed:.2g}"
    return None


def _inputs(device: torch.device, dtype: torch.dtype, size: int) -> list[Tensor]:
    """Draw q, k, v and the gradient of out."""
    draw = torch.Generator().manual_seed(0)
    heads = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    return [torch.randn(1, h, LENGTH, size, generator=draw).to(device, dtype) for h in heads]


def _results(attend: Attend, given: list[Tensor]) -> tuple[Tensor, ...]:
    """Return out and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in given[:3]]
    out = attend(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, given[3]))


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention step by step, each step in the dtype of its inputs."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


def _error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).norm())
