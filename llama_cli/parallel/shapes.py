"""The parameters of one rank, by the groups that travel together (fsdp.py, tensor.py).

Each layer is a group, the head is one, and the embedding with the last norm is the root's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llama_cli.model.config import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that are gathered and reduced in one message."""

    shapes: tuple[Shape, ...]  # on one tensor rank

    @property
    def parameters(self) -> int:
        """Count them."""
        return sum(prod(shape) for shape in self.shapes)

    def of_rank(self, shards: int) -> int:
        """Count those that the first of `shards` ranks holds: no rank holds more.

        Rows are dealt in equal chunks, so that the last ranks may have fewer, or none.

        >>> Group(((6656, 10),)).of_rank(2048)
        40
        """
        return sum(-(-rows // shards) * prod(rest) for rows, *rest in self.shapes)

    def sent(self, shards: int) -> int:
        """Count what a message carries: every rank's part is as long as the longest."""
        return self.of_rank(shards) * shards


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of a model on one tensor rank."""

    layer: Group
    layers: int
    head: Group
    root: Group

    @property
    def parameters(self) -> int:
        """Count the parameters of a tensor rank."""
        rest = self.head.parameters + self.root.parameters
        return self.layers * self.layer.parameters + rest

    def of_rank(self, shards: int) -> int:
        """Count the parameters of a rank."""
        rest = self.head.of_rank(shards) + self.root.of_rank(shards)
        return self.layers * self.layer.of_rank(shards) + rest


def groups(config: ModelConfig, tensor: int) -> Groups:
    """List the parameters of one of `tensor` ranks.

    >>> from llama_cli.model.config import SIZES
    >>> groups(SIZES["33b"], 1).parameters == SIZES["33b"].parameters
    True
    """
    d, hidden, vocabulary = config.dim, config.hidden // tensor, config.vocab_size // tensor
    head = () if config.tied else ((vocabulary, d),)
    wq, wk, wo = (d // tensor, d), (config.kv_dim // tensor, d), (d, d // tensor)
    feed_forward = ((hidden, d), (d, hidden), (hidden, d))
    return Groups(
        layer=Group((wq, wk, wk, wo, *feed_forward, (d,), (d,))),
        layers=config.layers,
        head=Group(head),
        root=Group(((vocabulary, d), (d,))),
    )
