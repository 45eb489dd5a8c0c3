"""The model: h = x + Attention(norm(x)); y = h + SwiGLU(norm(h)), L times, then the head.

LLaMA, section 2.2: pre-norm (GPT-3), SwiGLU (PaLM), rotary positions (GPT-NeoX); no biases,
no dropout, and a head that is not tied to the embedding. Module names are Meta's.
Legend: B batch, L length, d width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llama_cli.model.attention import Attention, Cache
from llama_cli.model.config import ModelConfig
from llama_cli.model.feed_forward import FeedForward
from llama_cli.model.norm import RMSNorm
from llama_cli.model.rotary import Table, rotary_table

# The paper does not say how weights start. These are ours: with them and a warm-up of a
# quarter, 200 steps of the 3m on source code end at 5.1 instead of 5.5 nats a token.
EMBEDDING_STD = 0.1
HEAD_STD = 0.02  # logits near 0, so the first loss is ln V


class Layer(nn.Module):
    """Attention, then the feed-forward, each on a normalised copy and added back."""

    def __init__(
        self, config: ModelConfig, layer: int, backend: str | None, deterministic: bool
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(
            config.dim, config.head_dim, layer=layer, backend=backend, deterministic=deterministic
        )
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config.dim, config.hidden)

    def forward(self, x_BLd: Tensor, table: Table, cache: Cache | None = None) -> Tensor:
        """Map (B, L, d) to (B, L, d)."""
        h: Tensor = x_BLd + self.attention(self.attention_norm(x_BLd), table, cache)
        y: Tensor = h + self.feed_forward(self.ffn_norm(h))
        return y


class Transformer(nn.Module):
    """Token ids in, logits of the next token out.

    `attention` names a backend of `llama_cli.kernels.attention`; None lets it choose.
    `deterministic` is whether that backend's gradients must be the same bits in every run.
    Weights are left as PyTorch makes them; `init_weights` or `load_model` sets them.
    """

    def __init__(
        self, config: ModelConfig, *, attention: str | None = None, deterministic: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            Layer(config, layer, attention, deterministic) for layer in range(config.layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, tokens_BL: Tensor, cache: Cache | None = None) -> Tensor:
        """Give logits (B, L, V). With a cache, `tokens_BL` are those that follow what it holds."""
        logits: Tensor = self.output(self.states(tokens_BL, cache))
        return logits

    def states(self, tokens_BL: Tensor, cache: Cache | None = None) -> Tensor:
        """Give what the head reads, (B, L, d), normalised."""
        config, start = self.config, cache.position if cache is not None else 0
        table = rotary_table(
            start, tokens_BL.shape[1], config.head_dim, config.rope_theta, tokens_BL.device
        )
        x_BLd = self.tok_embeddings(tokens_BL)
        for layer in self.layers:
            x_BLd = layer(x_BLd, table, cache)
        y_BLd: Tensor = self.norm(x_BLd)
        return y_BLd


def init_weights(model: Transformer, seed: int) -> None:
    """Draw every matrix from a normal distribution, always the same for one seed.

    Drawn on the CPU, so that a seed means the same on every device. Layers have the variance
    2/(5d) of Nguyen & Salazar, 2019 (https://arxiv.org/abs/1910.05895), and the matrices that
    write to the residual stream are smaller by sqrt(2 * layers), as in GPT-2.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
            else:
                std = _std(name, model.config)
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def _std(name: str, config: ModelConfig) -> float:
    if name == "tok_embeddings.weight":
        return EMBEDDING_STD
    if name == "output.weight":
        return HEAD_STD
    writes = name.endswith(("wo.weight", "w2.weight"))
    return math.sqrt(2 / (5 * config.dim) / (2 * config.layers if writes else 1))
