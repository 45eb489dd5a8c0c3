"""RMSNorm: y = x / sqrt(mean(x^2) + eps) * w.

Zhang & Sennrich, 2019, https://arxiv.org/abs/1910.07467, equation 4; LLaMA, section 2.2,
normalises the input of each sub-layer instead of its output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama_cli.model.exchange import ALONE, Exchange
from llama_cli.model.precision import widen


class RMSNorm(nn.Module):
    """Divide the last dim by its root mean square and scale it by a weight, in fp32 or wider."""

    def __init__(self, dim: int, eps: float, exchange: Exchange = ALONE) -> None:
        super().__init__()
        self.eps, self.exchange = eps, exchange
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; same shape and dtype as `x`, which may be some of the positions only."""
        weight = self.exchange.local(self.weight, shared=True)
        wide = widen(x)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * weight).type_as(x)
