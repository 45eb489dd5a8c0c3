"""SwiGLU: y = W2 (silu(W1 x) * W3 x), of width 2/3 * 4d.

Shazeer, 2020, https://arxiv.org/abs/2002.05202, equation 6; LLaMA, section 2.2.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear, silu

from llama_cli.model.exchange import ALONE, Exchange, gathered, scattered


class FeedForward(nn.Module):
    """A gated layer, each position by itself. No biases; Meta's names."""

    def __init__(self, dim: int, hidden: int, exchange: Exchange = ALONE) -> None:
        super().__init__()
        self.exchange = exchange
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x_BLd: Tensor) -> Tensor:
        """Map (B, L/T, dim) to (B, L/T, dim); each of the T ranks has a part of the hidden."""
        exchange = self.exchange
        w1, w2, w3 = (exchange.local(w.weight) for w in (self.w1, self.w2, self.w3))
        x_BLd = gathered(x_BLd, exchange)
        return scattered(linear(silu(linear(x_BLd, w1)) * linear(x_BLd, w3), w2), exchange)
