"""Cross-entropy of the next token, without the logits of a whole batch.

The head is most of a small model's work: 32,000 logits a token. Here they are made for a few
hundred tokens at a time, and the gradient, softmax minus one-hot, is taken from them while
they are at hand, so they are neither kept nor computed twice. Memory is linear in the
vocabulary, and the batch no longer counts. The arithmetic is that of `cross_entropy` in fp32;
products are in the dtype of the autocast. Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 512  # tokens whose logits exist at once; ours, by measurement


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of x W' against targets; both gradients are made in the forward."""

    @staticmethod
    def forward(ctx: Any, x_Nd: Tensor, weight_Vd: Tensor, targets_N: Tensor) -> Tensor:
        grad_x, grad_weight = torch.empty_like(x_Nd), torch.zeros_like(weight_Vd)
        near = weight_Vd.to(x_Nd.dtype)
        total = torch.zeros((), device=x_Nd.device)
        for start in range(0, len(x_Nd), ROWS):
            part = slice(start, start + ROWS)
            loss, grad = _loss_and_gradient(x_Nd[part] @ near.t(), targets_N[part])
            total += loss
            grad = grad.div_(len(x_Nd)).to(x_Nd.dtype)
            torch.mm(grad, near, out=grad_x[part])
            grad_weight += grad.t() @ x_Nd[part]
        ctx.save_for_backward(grad_x, grad_weight)
        return total / len(x_Nd)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), grad_weight * grad, None


def _loss_and_gradient(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Give the summed loss, and softmax minus one-hot, in fp32."""
    wide = logits_NV.float()
    rows = torch.arange(len(wide), device=wide.device)
    wide -= wide.amax(-1, keepdim=True)
    right = wide[rows, targets_N]
    sums = wide.exp_().sum(-1)
    wide /= sums[:, None]
    wide[rows, targets_N] -= 1.0
    return (sums.log() - right).sum(), wide


def head_loss(x_Nd: Tensor, weight_Vd: Tensor, targets_N: Tensor) -> Tensor:
    """Give the mean loss of predicting `targets_N` from the normalised states `x_Nd`."""
    device = x_Nd.device.type
    if torch.is_autocast_enabled(device):
        x_Nd = x_Nd.to(torch.get_autocast_dtype(device))
    loss: Tensor = _HeadLoss.apply(x_Nd, weight_Vd, targets_N)  # type: ignore[no-untyped-call]
    return loss
