"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * w.

Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467, equation 4; LLaMA, section 2.2,
normalises the input of each sub-layer instead of its output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide the last dim by its root mean square, in fp32, and scale it by a weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; same shape and dtype as `x`."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).type_as(x) * self.weight
