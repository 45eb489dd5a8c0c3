"""Multi-head causal self-attention: y = Wo concat_h softmax(q_h k_h' / sqrt(D)) v_h.

Vaswani et al., 2017, section 3.2, with rotary positions on q and k (LLaMA, section 2.2).
How the softmax is computed is the matter of `llama_cli.kernels`. Where keys and values have fewer
heads, each is read by as many heads of queries that follow each other (Ainslie et al., 2023).
Legend: B batch, L length, H heads, G heads of keys and values, D head width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear

from llama_cli.kernels.attention import causal_attention
from llama_cli.model.exchange import ALONE, Exchange, gathered, scattered
from llama_cli.model.rotary import Table, rotate


class Attention(nn.Module):
    """Let each position read those before it. No biases; Meta's names."""

    def __init__(
        self,
        dim: int,
        head_dim: int,
        *,
        backend: str | None,
        deterministic: bool,
        kv_dim: int | None = None,
        exchange: Exchange = ALONE,
    ) -> None:
        super().__init__()
        self.head_dim, self.exchange = head_dim, exchange
        self.backend, self.deterministic = backend, deterministic
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, kv_dim or dim, bias=False)
        self.wv = nn.Linear(dim, kv_dim or dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BLd: Tensor, table: Table, bounds: Tensor | None = None) -> Tensor:
        """Map (B, L/T, dim) to (B, L/T, dim); each of the T ranks has a part of the heads.

        `table` holds the angles of all L positions, `bounds` (2, B, L) their documents.
        """
        exchange = self.exchange
        wq, wk, wv, wo = (exchange.local(w.weight) for w in (self.wq, self.wk, self.wv, self.wo))
        x_BLd = gathered(x_BLd, exchange)
        q = rotate(self._heads(linear(x_BLd, wq)), table)
        k = rotate(self._heads(linear(x_BLd, wk)), table)
        v = self._heads(linear(x_BLd, wv))
        y_BHLD = causal_attention(
            q, k, v, bounds=bounds, deterministic=self.deterministic, asked=self.backend
        )
        return scattered(linear(y_BHLD.transpose(1, 2).flatten(2), wo), exchange)

    def _heads(self, x_BLd: Tensor) -> Tensor:
        return x_BLd.view(*x_BLd.shape[:2], -1, self.head_dim).transpose(1, 2)
