"""The attentions that are compared: ours, PyTorch's, and xformers' where it is installed.

All take q, k and v of (batch, heads, length, d), laid out in memory as (batch, length, heads, d).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from llama_cli.kernels import backends, extension
from tests.gpu.clock import Call
from tests.gpu.table import ATOMICS, EFFICIENT, FLASH, OURS, Part, Shape

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

MATH = "sdpa math"
MATH_UP_TO = 2_048  # length; it keeps every score


def attentions() -> dict[str, Attend]:
    """Name what there is to compare."""
    found: dict[str, Attend] = {
        OURS: extension.causal_attention,
        ATOMICS: partial(extension.causal_attention, deterministic=False),
        FLASH: partial(sdpa, SDPBackend.FLASH_ATTENTION),
        EFFICIENT: partial(sdpa, SDPBackend.EFFICIENT_ATTENTION),
        "sdpa cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION),
        MATH: partial(sdpa, SDPBackend.MATH),
    }
    if importlib.util.find_spec("xformers"):
        found["xformers"] = backends.xformers
    return found


def sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with one backend of PyTorch's, or fail."""
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, is_causal=True)


Given = tuple[list[Tensor], Tensor]  # q, k and v, and the gradient of out


def given(shape: Shape, device: str) -> Given:
    """Make fresh random inputs in bf16."""
    sizes = (shape.batch, shape.length, shape.heads, shape.size)
    q, k, v, grad = (
        torch.randn(sizes, device=device, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4)
    )
    return [q.requires_grad_(), k.requires_grad_(), v.requires_grad_()], grad


def both(attend: Attend, leaves: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Go forward and backward."""
    return torch.autograd.grad(attend(*leaves), leaves, grad)


def calls(attend: Attend, sets: list[Given]) -> dict[Part, Call]:
    """Make the calls to time, on another of `sets` at each turn.

    Forward as in training, with what the backward will need.

    Raises:
        RuntimeError: this attention does not run here on these inputs.
    """
    outs = [attend(*leaves) for leaves, _ in sets]

    def forward(turn: int) -> object:
        return attend(*sets[turn % len(sets)][0])

    def backward(turn: int) -> object:
        leaves, grad = sets[turn % len(sets)]
        return torch.autograd.grad(outs[turn % len(sets)], leaves, grad, retain_graph=True)

    backward(0)  # may refuse as well
    return {"forward": forward, "backward": backward}
