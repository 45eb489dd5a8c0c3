"""The shapes of a LLaMA, and the sizes that have a name (section 2.2, Table 2).

7b to 65b are the paper's. 3m, 15m and 110m are ours, for laptops: heads of 64, and named
by their parameters without the two embeddings, which at 32,000 pieces would be most of
such a model. Imports nothing heavy, so that `--help` and `--dry-run` stay quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Activations = Literal["keep", "linear", "full"]  # what a layer keeps for its backward
ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)

LARGEST = 2**31 - 1  # ours, as the next: more than any model has
SIZES_UP_TO = {
    **dict.fromkeys(("dim", "heads", "hidden", "vocab_size", "context"), LARGEST),
    "layers": 10_000,
}
EMBEDDING, NORM, HEAD = "tok_embeddings.weight", "norm.weight", "output.weight"
HIDDEN_MULTIPLE = 256  # of the feed-forward's width; from Meta's released code


def swiglu_hidden(dim: int, multiple: int = HIDDEN_MULTIPLE, times: float = 1) -> int:
    """Give 2/3 * 4d (section 2.2), perhaps `times` as much, rounded up to a multiple of 256.

    >>> [swiglu_hidden(dim) for dim in (4096, 5120, 6656, 8192)]
    [11008, 13824, 17920, 22016]
    >>> swiglu_hidden(8192, 4096, 1.3)  # Llama 2 70B
    28672
    """
    return -(-int(times * (8 * dim // 3)) // multiple) * multiple


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What must be known to build a model.

    Grouped-query heads (Ainslie et al., 2023, https://arxiv.org/abs/2305.13245) and a tied head are
    not the paper's: models after it have them.

    Raises:
        ValueError: `dim` is not `heads` heads of one even width, or these are no groups, or a
            number is none that a model can have.
    """

    dim: int
    layers: int
    heads: int
    hidden: int
    vocab_size: int = 32_000  # section 2.1's tokenizer
    context: int = 2048  # the longest sequence trained on
    norm_eps: float = 1e-5  # not in the paper; Meta's code
    rope_theta: float = 10_000.0  # Su et al., 2021
    kv_heads: int = 0  # heads of keys and values, each for as many of queries; 0: a head each
    tied: bool = False  # whether the head is the embedding

    def __post_init__(self) -> None:
        if self.kv_heads == self.heads:
            object.__setattr__(self, "kv_heads", 0)  # one way to say it
        for name, most in SIZES_UP_TO.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, not 1 to {most:,}")
        if not (0 <= self.norm_eps < math.inf and 0 < self.rope_theta < math.inf):
            raise ValueError(f"norm_eps is {self.norm_eps}, and rope_theta {self.rope_theta}")
        if self.dim % self.heads or self.head_dim % 2:
            raise ValueError(f"width {self.dim} is not {self.heads} heads of one even width")
        if self.key_heads < 1 or self.heads % self.key_heads:
            raise ValueError(f"{self.heads} heads do not share {self.kv_heads} of keys and values")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads

    @property
    def key_heads(self) -> int:
        """Heads of keys, and of values."""
        return self.kv_heads or self.heads

    @property
    def kv_dim(self) -> int:
        """Width of the keys of all heads, and of the values."""
        return self.key_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four attention matrices, three of SwiGLU, two norms."""
        attention = 2 * self.dim**2 + 2 * self.dim * self.kv_dim
        return attention + 3 * self.dim * self.hidden + 2 * self.dim

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding and of the head, which share nothing unless tied."""
        return (1 if self.tied else 2) * self.vocab_size * self.dim

    @property
    def parameters(self) -> int:
        """All parameters.

        >>> [f"{SIZES[size].parameters / 1e9:.2f}" for size in ("7b", "13b", "33b", "65b")]
        ['6.74', '13.02', '32.53', '65.29']
        """
        return self.layers * self.layer_parameters + self.dim + self.embedding_parameters

    def to_params(self) -> dict[str, Any]:
        """Name the fields as Meta's params.json does, and ours beside them.

        What the paper's models do not have is left out where it is not there: their files, and what
        is hashed of them, stay as they are.
        """
        later: dict[str, Any] = {}
        if self.kv_heads:
            later["n_kv_heads"] = self.kv_heads
        if self.tied:
            later["tied"] = True
        return {
            "dim": self.dim,
            "n_layers": self.layers,
            "n_heads": self.heads,
            "hidden": self.hidden,
            "vocab_size": self.vocab_size,
            "context": self.context,
            "norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            **later,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> ModelConfig:
        """Read params.json, ours or Meta's (which says -1 for the vocabulary of 32,000)."""
        dim, vocab_size = int(params["dim"]), int(params.get("vocab_size", -1))
        multiple = int(params.get("multiple_of", HIDDEN_MULTIPLE))
        hidden = swiglu_hidden(dim, multiple, float(params.get("ffn_dim_multiplier") or 1))
        return cls(
            dim=dim,
            layers=int(params["n_layers"]),
            heads=int(params["n_heads"]),
            hidden=int(params.get("hidden", hidden)),
            vocab_size=vocab_size if vocab_size > 0 else 32_000,
            context=int(params.get("context", 2048)),
            norm_eps=float(params.get("norm_eps", 1e-5)),
            rope_theta=float(params.get("rope_theta", 10_000.0)),
            kv_heads=int(params.get("n_kv_heads") or 0),
            tied=bool(params.get("tied", False)),
        )

    def with_data(self, *, vocab_size: int, context: int) -> ModelConfig:
        """Fit the model to the data it is trained on."""
        return replace(self, vocab_size=vocab_size, context=context)


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Give the shape of every parameter, in the model's order; a tied head has none of its own.

    >>> parameter_shapes(SIZES["7b"])["layers.31.feed_forward.w2.weight"]
    (4096, 11008)
    """
    dim, kv_dim, hidden = config.dim, config.kv_dim, config.hidden
    layer = {
        "attention_norm": (dim,),
        "attention.wq": (dim, dim),
        "attention.wk": (kv_dim, dim),
        "attention.wv": (kv_dim, dim),
        "attention.wo": (dim, dim),
        "ffn_norm": (dim,),
        "feed_forward.w1": (hidden, dim),
        "feed_forward.w2": (dim, hidden),
        "feed_forward.w3": (hidden, dim),
    }
    vocabulary = (config.vocab_size, dim)
    return {
        EMBEDDING: vocabulary,
        **{f"layers.{n}.{k}.weight": v for n in range(config.layers) for k, v in layer.items()},
        NORM: (dim,),
        **({} if config.tied else {HEAD: vocabulary}),
    }


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
