"""AdamW with the paper's constants, over this rank's part of every weight.

Section 2.3: "beta1 = 0.9, beta2 = 0.95 ... weight decay of 0.1 and gradient clipping of
1.0". Loshchilov & Hutter, 2017, https://arxiv.org/abs/1711.05101.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llama_cli.model.stored import Slice
from llama_cli.parallel.slices import Part

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0  # of the norm of all gradients together
EPSILON = 1e-8  # not in the paper; PyTorch's
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(parts: Sequence[Part]) -> torch.optim.AdamW:
    """Make AdamW, with its moments in place; norms do not decay (ours: the paper does not say)."""
    held = [part for part in parts if part.local.numel()]  # a rank may have no row of some
    groups = [
        {
            "params": [part.local for part in held if not part.is_norm],
            "weight_decay": WEIGHT_DECAY,
        },
        {"params": [part.local for part in held if part.is_norm], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
    for part in held:
        optimizer.state[part.local] = {
            "step": torch.zeros((), device=part.local.device),
            **{moment: torch.zeros_like(part.local) for moment in MOMENTS},
        }
    return optimizer


def clip(optimizer: torch.optim.AdamW, norm: Tensor) -> None:
    """Let the next step clip gradients of this norm, all together, to CLIP.

    Fused AdamW divides by `grad_scale` what it reads anyway; a pass of its own would read and
    write every gradient once more. It takes an fp32 scale only, so in fp64 there is that pass. The
    1e-6 is that of `torch.nn.utils.clip_grad_norm_`.
    """
    scale = ((norm + 1e-6) / CLIP).clamp(min=1.0)
    if norm.dtype == torch.float32:
        optimizer.grad_scale = scale  # type: ignore[attr-defined]
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad /= scale


def moments(parts: Sequence[Part], optimizer: torch.optim.AdamW) -> Iterator[Slice]:
    """Yield both moments of every weight, as `exp_avg.NAME` and `exp_avg_sq.NAME`."""
    for part in parts:
        for moment in MOMENTS:
            state = optimizer.state[part.local] if part.local.numel() else {}
            tensor: Tensor = state.get(moment, part.held.tensor)  # an empty one has no moments
            yield replace(part.held, name=f"{moment}.{part.held.name}", tensor=tensor)


def count_steps(optimizer: torch.optim.AdamW, step: int) -> None:
    """Say how many steps the moments are of."""
    for state in optimizer.state.values():
        state["step"].fill_(float(step))
