"""The model: h = x + Attention(norm(x)); y = h + SwiGLU(norm(h)), L times, then the head.

LLaMA, section 2.2: pre-norm (GPT-3), SwiGLU (PaLM), rotary positions (GPT-NeoX); no biases,
no dropout, and a head that is not tied to the embedding, unless the config says so. Module names
are Meta's.
Legend: B batch, L length, d width, V vocabulary, T ranks that share the layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from llama_cli.model.attention import Attention
from llama_cli.model.backward import How, Weights, run_layer
from llama_cli.model.config import ACTIVATIONS, Activations, ModelConfig
from llama_cli.model.exchange import ALONE, Exchange, gathered, scattered
from llama_cli.model.feed_forward import FeedForward
from llama_cli.model.norm import RMSNorm
from llama_cli.model.precision import product_dtype
from llama_cli.model.rotary import Table, rotary_table

# The paper does not say how weights start. These are ours: with them and a warm-up of a
# quarter, 200 steps of the 3m on source code end at 5.1 instead of 5.5 nats a token.
EMBEDDING_STD = 0.1
HEAD_STD = 0.02  # logits near 0, so the first loss is ln V


class Layer(nn.Module):
    """Attention, then the feed-forward, each on a normalised copy and added back."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        backend: str | None,
        deterministic: bool,
        activations: Activations,
        exchange: Exchange,
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps, exchange)
        self.attention = Attention(
            config.dim,
            config.head_dim,
            backend=backend,
            deterministic=deterministic,
            kv_dim=config.kv_dim,
            exchange=exchange,
        )
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps, exchange)
        self.feed_forward = FeedForward(config.dim, config.hidden, exchange)
        self.activations = activations
        self.how = How(
            head_dim=config.head_dim,
            eps=config.norm_eps,
            backend=backend,
            deterministic=deterministic,
            inputs_only=activations == "full",
            exchange=exchange,
        )

    def forward(self, x_BLd: Tensor, table: Table, bounds: Tensor | None = None) -> Tensor:
        """Map (B, L/T, d) to (B, L/T, d)."""
        if self.activations != "keep":
            return run_layer(x_BLd, self._weights(), table, bounds, self.how)
        h: Tensor = x_BLd + self.attention(self.attention_norm(x_BLd), table, bounds)
        y: Tensor = h + self.feed_forward(self.ffn_norm(h))
        return y

    def _weights(self) -> Weights:
        """Give this rank's part of every parameter."""
        local, attention, feed_forward = self.how.exchange.local, self.attention, self.feed_forward
        return Weights(
            local(self.attention_norm.weight, shared=True),
            local(attention.wq.weight),
            local(attention.wk.weight),
            local(attention.wv.weight),
            local(attention.wo.weight),
            local(self.ffn_norm.weight, shared=True),
            local(feed_forward.w1.weight),
            local(feed_forward.w2.weight),
            local(feed_forward.w3.weight),
        )


class Transformer(nn.Module):
    """Token ids in, logits of the next token out.

    `attention` names a backend of `llama_cli.kernels.attention`; None lets it choose.
    `deterministic` is whether that backend's gradients must be the same bits in every run.
    `activations` is what a layer keeps for its backward: "keep", all that autograd asks for;
    "linear", the outputs of its products (`backward`); "full", its input alone.
    `exchange` is how the ranks that share each layer work together, with sequence parallelism
    between the layers; parameters are then to be split as `exchange.local` expects.
    Weights are left as PyTorch makes them; `init_weights` or `load_model` sets them.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        attention: str | None = None,
        deterministic: bool = True,
        activations: Activations = "keep",
        exchange: Exchange = ALONE,
    ) -> None:
        super().__init__()
        if activations not in ACTIVATIONS:
            raise ValueError(
                f"activations are one of {', '.join(ACTIVATIONS)}, not '{activations}'"
            )
        self.config, self.exchange = config, exchange
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            Layer(
                config,
                backend=attention,
                deterministic=deterministic,
                activations=activations,
                exchange=exchange,
            )
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps, exchange)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make the head the embedding, if the config says so; again when either is replaced."""
        if self.config.tied:
            self.output.weight = self.tok_embeddings.weight

    def forward(self, tokens_BL: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Give logits (B, L, V), of this rank's part of the vocabulary where ranks share it."""
        states_BLd = self.states(tokens_BL, bounds)
        return linear(states_BLd, self.exchange.local(self.output.weight))

    def states(self, tokens_BL: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Give what the head reads, (B, L, d), normalised; all positions on every rank.

        `bounds` (2, B, L) of `kernels.documents` keeps packed documents apart. Where ranks share
        the model, the gradient of the states is summed over them: each rank brings that of its
        own part of the vocabulary.
        """
        config, length = self.config, tokens_BL.shape[1]
        table = rotary_table(0, length, config.head_dim, config.rope_theta, tokens_BL.device)
        x_BLd = self._embed(tokens_BL)
        for layer in self.layers:
            x_BLd = layer(x_BLd, table, bounds)
        return gathered(self.norm(x_BLd), self.exchange)

    def _embed(self, tokens_BL: Tensor) -> Tensor:
        """Look up this rank's rows of the vocabulary; the ranks' sum has one for each token."""
        exchange = self.exchange
        weight_Vd = exchange.local(self.tok_embeddings.weight)
        if exchange.size == 1:
            x_BLd = embedding(tokens_BL, weight_Vd)
            return x_BLd.to(product_dtype(x_BLd))
        row_BL = tokens_BL - exchange.rank * len(weight_Vd)
        absent_BL = (row_BL < 0) | (row_BL >= len(weight_Vd))
        x_BLd = embedding(row_BL.masked_fill(absent_BL, 0), weight_Vd)
        x_BLd = x_BLd.masked_fill(absent_BL[..., None], 0.0)
        return scattered(x_BLd.to(product_dtype(x_BLd)), exchange)


def init_weights(model: Transformer, seed: int) -> None:
    """Draw every matrix from a normal distribution, always the same for one seed.

    Drawn on the CPU, so that a seed means the same on every device. Layers have the variance
    2/(5d) of Nguyen & Salazar, 2019 (https://arxiv.org/abs/1910.05895), and the matrices that
    write to the residual stream are smaller by sqrt(2 * layers), as in GPT-2.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(first_weight(name, weight.shape, model.config, generator))


def first_weight(
    name: str, shape: Sequence[int], config: ModelConfig, generator: torch.Generator
) -> Tensor:
    """Draw one parameter, fp32 on the CPU. Called for each in turn, in the model's order."""
    if len(shape) == 1:
        return torch.ones(*shape)
    return torch.randn(*shape, generator=generator) * _std(name, config)


def _std(name: str, config: ModelConfig) -> float:
    if name == "tok_embeddings.weight":
        return EMBEDDING_STD
    if name == "output.weight":
        return HEAD_STD
    writes = name.endswith(("wo.weight", "w2.weight"))
    return math.sqrt(2 / (5 * config.dim) / (2 * config.layers if writes else 1))
