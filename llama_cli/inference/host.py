"""The model as a CPU runs it: the processor's kernel, on weights where they lie.

Nothing is laid out anew, so a model that is mapped from its file is ready at once, and takes no
memory of its own. A row's bits depend on that row only, whatever is beside it, and however many
threads there are (cuda_ext/host). Legend: N tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llama_cli.inference.backend import Piece
from llama_cli.inference.pages import Pages
from llama_cli.kernels import host
from llama_cli.kernels.host import CLayer, CModel, Floats, Matrix, address
from llama_cli.model.config import EMBEDDING, HEAD, NORM, ModelConfig
from llama_cli.model.dtypes import Array, widened
from llama_cli.model.parts import let_go

ATTENTION, FEED_FORWARD = ("wq", "wk", "wv", "wo"), ("w1", "w2", "w3")
MATRICES = {
    **{name: f"attention.{name}" for name in ATTENTION},
    **{name: f"feed_forward.{name}" for name in FEED_FORWARD},
}

Weights = Callable[[str], Array]  # a parameter, by its name


class HostNetwork:
    """A model's weights, pointed to. With `quantize` its matrices are kept in int8.

    What `weights` gives may lie in a file that is mapped, and is not to be written to. It is kept
    itself: a file is watched as long as whoever mapped it is there.
    """

    at_once = 64  # positions whose logits are held at a time; ours: the third cache's 8 MB

    def __init__(self, config: ModelConfig, weights: Weights, *, quantize: bool = False) -> None:
        self.config, self.quantize, self._weights = config, quantize, weights
        self._kept: list[Array] = []  # what C points to
        embedding = self._matrix(EMBEDDING)
        head = embedding if config.tied and not quantize else self._head()
        layers = [self._layer(f"layers.{number}") for number in range(config.layers)]
        self._layers = (CLayer * len(layers))(*layers)
        self._model = CModel(
            layer=self._layers,
            embedding=embedding.as_c(),
            head=head.as_c(),
            norm=self._vector(NORM),
            layers=config.layers,
            dim=config.dim,
            heads=config.heads,
            key_heads=config.key_heads,
            head_dim=config.head_dim,
            hidden=config.hidden,
            vocab_size=config.vocab_size,
            eps=config.norm_eps,
        )
        self._turns = np.empty((0, 0, 2), np.float32)
        host.check()

    def begin_thread(self) -> None:
        """Do nothing: the kernel has threads of its own, whoever calls it."""

    def cache(self) -> Pages:
        """Make one without any room."""
        return Pages(self.config)

    def states(self, tokens: Sequence[int], pieces: Sequence[Piece], cache: Pages) -> Floats:
        """Give what the head reads of each token (N, d), and add the tokens to the cache."""
        for each in pieces:
            cache.fill(each.slot, each.start, each.start + each.count)
        turns = self._turned(cache.length)
        placed = [(each.slot, each.start, each.count) for each in pieces]
        return host.run(self._model, tokens, placed, cache.table_SP, turns)

    def logits(self, states_Nd: Floats) -> Floats:
        """Give the logits (N, V) after states."""
        return host.logits(self._model, states_Nd)

    def summary(self, logits_NV: Floats) -> tuple[list[int], Floats]:
        """Give the first of the largest of each row, and ln of the sum of e to each logit."""
        best_N, total_N = host.summary(logits_NV)
        return best_N.tolist(), total_N

    def _layer(self, name: str) -> CLayer:
        parts = {short: f"{name}.{part}.weight" for short, part in MATRICES.items()}
        return CLayer(
            attention_norm=self._vector(f"{name}.attention_norm.weight"),
            ffn_norm=self._vector(f"{name}.ffn_norm.weight"),
            **{
                short: (self._eight(part) if self.quantize else self._matrix(part)).as_c()
                for short, part in parts.items()
            },
        )

    def _head(self) -> Matrix:
        if not self.quantize:
            return self._matrix(HEAD)
        return self._eight(EMBEDDING if self.config.tied else HEAD, used=self.config.tied)

    def _eight(self, name: str, *, used: bool = False) -> Matrix:
        """Keep a matrix in int8; what it was is not `used` again, unless it is the embedding."""
        weight = self._weights(name)
        made = host.narrow(_matrix(weight))
        if not used:
            let_go(weight)
        self._kept += [made.at, *(each for each in (made.scale_M, made.zero_M) if each is not None)]
        return made

    def _matrix(self, name: str) -> Matrix:
        lies = self._weights(name)
        made = _matrix(lies)
        if made.at is not lies:
            let_go(lies)
        self._kept.append(made.at)
        return made

    def _vector(self, name: str) -> int:
        wide = np.require(widened(self._weights(name)), requirements=["C", "ALIGNED"])
        self._kept.append(wide)
        return address(wide)

    def _turned(self, length: int) -> Floats:
        """Give cosine and sine of each place and pair, (places, D / 2, 2), as `model.rotary` does.

        A model was trained with exponents in fp32; in fp64 far places would be turned otherwise.
        """
        if len(self._turns) < length:
            config = self.config
            steps = (np.arange(0, config.head_dim, 2) / config.head_dim).astype(np.float32)
            speeds = (config.rope_theta ** -steps.astype(np.float64)).astype(np.float32)
            angles = np.outer(np.arange(length, dtype=np.float32), speeds)
            self._turns = np.stack((np.cos(angles), np.sin(angles)), -1)
        return self._turns


def _matrix(weight: Array) -> Matrix:
    weight = np.require(weight, requirements=["C", "ALIGNED"])
    return Matrix(widened(weight) if weight.dtype == np.float64 else weight, *weight.shape)
