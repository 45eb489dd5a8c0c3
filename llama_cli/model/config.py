"""The shapes of a LLaMA, and the sizes that have a name (section 2.2, Table 2).

7b to 65b are the paper's. 3m, 15m and 110m are ours, for laptops: heads of 64, and named
by their parameters without the two embeddings, which at 32,000 pieces would be most of
such a model. Imports nothing heavy, so that `--help` and `--dry-run` stay quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Activations = Literal["keep", "linear", "full"]  # what a layer keeps for its backward
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)

HIDDEN_MULTIPLE = 256  # of the feed-forward's width; from Meta's released code


def swiglu_hidden(dim: int) -> int:
    """Give 2/3 * 4d (section 2.2), rounded up to a multiple of 256.

    >>> [swiglu_hidden(dim) for dim in (4096, 5120, 6656, 8192)]
    [11008, 13824, 17920, 22016]
    """
    return -(-(8 * dim // 3) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What must be known to build a model.

    Raises:
        ValueError: `dim` is not `heads` heads of one even width.
    """

    dim: int
    layers: int
    heads: int
    hidden: int
    vocab_size: int = 32_000  # section 2.1's tokenizer
    context: int = 2048  # the longest sequence trained on
    norm_eps: float = 1e-5  # not in the paper; Meta's code
    rope_theta: float = 10_000.0  # Su et al., 2021

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads or self.head_dim % 2:
            raise ValueError(f"width {self.dim} is not {self.heads} heads of one even width")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four attention matrices, three of SwiGLU, two norms."""
        return 4 * self.dim**2 + 3 * self.dim * self.hidden + 2 * self.dim

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding and of the head, which share nothing."""
        return 2 * self.vocab_size * self.dim

    @property
    def parameters(self) -> int:
        """All parameters.

        >>> [f"{SIZES[size].parameters / 1e9:.2f}" for size in ("7b", "13b", "33b", "65b")]
        ['6.74', '13.02', '32.53', '65.29']
        """
        return self.layers * self.layer_parameters + self.dim + self.embedding_parameters

    def to_params(self) -> dict[str, Any]:
        """Name the fields as Meta's params.json does, and ours beside them."""
        return {
            "dim": self.dim,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "hidden": self.hidden,
            "vocab_size": self.vocab_size,
            "context": self.context,
            "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> ModelConfig:
        """Read params.json, ours or Meta's (which says -1 for the vocabulary of 32,000)."""
        dim, vocab_size = int(params["dim"]), int(params.get("vocab_size", -1))
        return cls(
            dim=dim,
            layers=int(params["n_layers"]),
            heads=int(params["n_heads"]),
            hidden=int(params.get("hidden", swiglu_hidden(dim))),
            vocab_size=vocab_size if vocab_size > 0 else 32_000,
            context=int(params.get("context", 2048)),
            norm_eps=float(params.get("norm_eps", 1e-5)),
            rope_theta=float(params.get("rope_theta", 10_000.0)),
        )

    def with_data(self, *, vocab_size: int, context: int) -> ModelConfig:
        """Fit the model to the data it is trained on."""
        return replace(self, vocab_size=vocab_size, context=context)


def _size(dim: int, layers: int, heads: int) -> ModelConfig:
    return ModelConfig(dim=dim, layers=layers, heads=heads, hidden=swiglu_hidden(dim))


SIZES: Mapping[str, ModelConfig] = {
    "3m": _size(256, 4, 4),  # 3.4 M without embeddings
    "15m": _size(448, 6, 7),  # 15.1 M
    "110m": _size(768, 16, 12),  # 113 M
    "7b": _size(4096, 32, 32),
    "13b": _size(5120, 40, 40),
    "33b": _size(6656, 60, 52),
    "65b": _size(8192, 80, 64),
}
