"""Along which dim of each weight those who share a model's layers split it.

Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053, section 3: wq, wk, wv by heads, w1, w3 by
the hidden width (rows of a weight), wo, w2 by columns; embedding and head by vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

# by the name of its module; norms are not there
SPLIT: Mapping[str, int] = {
    "tok_embeddings": 0,
    "wq": 0,
    "wk": 0,
    "wv": 0,
    "wo": 1,
    "w1": 0,
    "w2": 1,
    "w3": 0,
    "output": 0,
}


def split_dim(name: str, table: Mapping[str, int] = SPLIT) -> int | None:
    """Say along which dim a parameter is split; None for one that all hold whole.

    >>> split_dim("layers.3.attention.wo.weight"), split_dim("layers.3.ffn_norm.weight")
    (1, None)
    """
    return table.get(name.rpartition(".")[0].rpartition(".")[2])
