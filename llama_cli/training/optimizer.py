"""AdamW with the paper's constants, and its state as named tensors.

Section 2.3: "beta1 = 0.9, beta2 = 0.95 ... weight decay of 0.1 and gradient clipping of
1.0". Loshchilov & Hutter, 2017, https://arxiv.org/abs/1711.05101.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0  # of the norm of all gradients together
EPSILON = 1e-8  # not in the paper; PyTorch's
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Make AdamW over all weights; norms do not decay (ours: the paper does not say)."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def moments(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Give both moments of every weight, as `exp_avg.NAME` and `exp_avg_sq.NAME`."""
    return {
        f"{moment}.{name}": optimizer.state[weight][moment].detach().cpu().contiguous()
        for name, weight in model.named_parameters()
        for moment in MOMENTS
    }


def set_moments(
    model: nn.Module, optimizer: torch.optim.AdamW, state: Mapping[str, Tensor], step: int
) -> None:
    """Put back what `moments` gave after `step` steps."""
    for name, weight in model.named_parameters():
        optimizer.state[weight] = {
            "step": torch.tensor(float(step), device=weight.device),
            **{moment: state[f"{moment}.{name}"].to(weight.device) for moment in MOMENTS},
        }
