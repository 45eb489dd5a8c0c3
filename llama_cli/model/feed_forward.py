"""SwiGLU: y = W2 (silu(W1 x) * W3 x), of width 2/3 * 4d.

Shazeer, 2020, https://arxiv.org/abs/2002.05202, equation 6; LLaMA, section 2.2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu


class FeedForward(nn.Module):
    """A gated layer, each position by itself. No biases; Meta's names."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        y: Tensor = self.w2(silu(self.w1(x)) * self.w3(x))
        return y
