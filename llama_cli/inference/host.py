"""The model as a CPU runs it: the processor's kernel, on weights where they lie.

Nothing is laid out anew, so a model that is mapped from its file is ready at once, and takes no
memory of its own. A row's bits depend on that row only, whatever is beside it, and however many
threads there are (cuda_ext/host). Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llama_cli.inference.backend import Piece
from llama_cli.inference.pages import Pages
from llama_cli.kernels import host
from llama_cli.kernels.host import CLayer, CModel, Matrix
from llama_cli.model.config import ModelConfig
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Layer, Transformer


class HostNetwork:
    """A model's weights, pointed to. With `quantize` its matrices go, and are kept in int8."""

    at_once = 64  # positions whose logits are held at a time; ours: the third cache's 8 MB

    def __init__(self, model: Transformer, *, quantize: bool = False) -> None:
        self.config: ModelConfig = model.config
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.quantize = quantize
        self._kept: list[Tensor] = []  # what C points to
        config = self.config
        embedding = self._matrix(model.tok_embeddings.weight.detach())
        head = embedding if config.tied and not quantize else self._taken(model.output)
        layers = [self._layer(layer) for layer in model.layers]  # type: ignore[arg-type]
        self._layers = (CLayer * len(layers))(*layers)
        self._model = CModel(
            layer=self._layers,
            embedding=embedding.as_c(),
            head=head.as_c(),
            norm=self._vector(model.norm.weight),
            layers=config.layers,
            dim=config.dim,
            heads=config.heads,
            key_heads=config.key_heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            vocab_size=config.vocab_size,
            eps=config.norm_eps,
        )
        self._turns = torch.empty(0, 0, 2)

    def cache(self) -> Pages:
        """Make one without any room."""
        return Pages(self.config)

    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Pages) -> Tensor:
        """Give what the head reads of each token (N, d), and add the tokens to the cache."""
        for each in pieces:
            cache.fill(each.slot, each.start, each.start + each.count)
        turns = self._turned(cache.length)
        placed = [(each.slot, each.start, each.count) for each in pieces]
        return host.run(self._model, tokens, placed, cache.table_SP, turns)

    def logits(self, states_Nd: Tensor) -> Tensor:
        """Give the logits (N, V) after states."""
        return host.logits(self._model, states_Nd)

    def summary(self, logits_NV: Tensor) -> tuple[list[int], Tensor]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""
        best_N, total_N = host.summary(logits_NV)
        return best_N.tolist(), total_N

    def _layer(self, layer: Layer) -> CLayer:
        attention, feed_forward = layer.attention, layer.feed_forward
        parts = {
            **{name: getattr(attention, name) for name in ("wq", "wk", "wv", "wo")},
            **{name: getattr(feed_forward, name) for name in ("w1", "w2", "w3")},
        }
        return CLayer(
            attention_norm=self._vector(layer.attention_norm.weight),
            ffn_norm=self._vector(layer.ffn_norm.weight),
            **{name: self._taken(part).as_c() for name, part in parts.items()},
        )

    def _taken(self, part: nn.Linear) -> Matrix:
        weight = part.weight.detach()
        if not self.quantize:
            return self._matrix(weight)
        made = host.to_int8(weight)
        if not (self.config.tied and len(weight) == self.config.vocab_size):
            del part.weight
            host.let_go(weight)
        self._kept += [made.at, *(each for each in (made.scale_M, made.zero_M) if each is not None)]
        return made

    def _matrix(self, weight: Tensor) -> Matrix:
        weight = weight.contiguous()
        self._kept.append(weight)
        return Matrix(weight, *weight.shape)

    def _vector(self, weight: Tensor) -> int:
        wide = weight.detach().float().contiguous()
        self._kept.append(wide)
        return wide.data_ptr()

    def _turned(self, length: int) -> Tensor:
        """Give cosine and sine of each place and pair."""
        if len(self._turns) < length:
            config = self.config
            table = rotary_table(0, length, config.head_dim, config.rope_theta, self.device)
            self._turns = torch.stack(table, -1).float().contiguous()
        return self._turns
