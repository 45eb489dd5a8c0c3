"""How a model may be laid over a cluster: what divides, and nothing of what it costs.

    GPUs = data x tensor; data = replicas x shards
    batch = data x micro-batch x passes, of which the last may hold less

A tensor group talks in every layer, so it never leaves a node, and its size divides the heads: the
33b has 52, so 4 or 2, not 8. Imports no torch, so that a plan comes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llama_cli.errors import UsageError
from llama_cli.model.config import ACTIVATIONS, Activations, ModelConfig
from llama_cli.parallel.gpus import Cluster


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to train a model on a number of GPUs."""

    data: int
    tensor: int
    micro_batch: int  # sequences that a tensor group computes at once
    passes: int  # micro-batches a step
    activations: Activations
    reshard: bool  # give a layer's weights back between its forward and its backward
    replicas: int = 1  # of the weights, among the data ranks
    reduced: int = 4  # bytes a gradient is summed in; ours fp32, as training does

    @property
    def gpus(self) -> int:
        """Count the ranks."""
        return self.data * self.tensor

    @property
    def shards(self) -> int:
        """Count the data ranks that share one copy of the weights."""
        return self.data // self.replicas

    @property
    def room(self) -> int:
        """Count the sequences a step has room for; what a batch leaves empty costs time too."""
        return self.data * self.micro_batch * self.passes

    @property
    def options(self) -> str:
        """Give the options of `llama train` that choose it.

        >>> Layout(4, 2, 1, 8, "full", False).options
        '--tensor 2 --micro-batch 1 --activations full --no-reshard'
        """
        mesh = f"--tensor {self.tensor}" + f" --replicas {self.replicas}" * (self.replicas > 1)
        reshard = "" if self.reshard or self.shards == 1 else " --no-reshard"
        return f"{mesh} --micro-batch {self.micro_batch} --activations {self.activations}{reshard}"

    def __str__(self) -> str:
        """Name it in one line."""
        return (
            f"{self.data} x {self.tensor}, {self.passes} x {self.micro_batch}, {self.activations}, "
            f"{'reshard' if self.reshard else 'keep weights'}"
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user has settled; None leaves it to the plan."""

    tensor: int | None = None
    replicas: int | None = None
    micro_batch: int | None = None
    activations: Activations | None = None
    reshard: bool | None = None


FREE = Wish()


def layouts(
    config: ModelConfig, cluster: Cluster, batch: int, wish: Wish = FREE
) -> Iterator[Layout]:
    """Yield every layout of `batch` sequences on the cluster, whether it fits or not.

    Raises:
        UsageError: there is none.
    """
    _check(config, cluster, batch, wish)
    for tensor in tensor_sizes(config, cluster):
        data = cluster.gpus // tensor
        if batch < data or wish.tensor not in (None, tensor):
            continue
        each = -(-batch // data)  # of the data rank that has most
        for replicas in _replicas(cluster, tensor, wish.replicas):
            for micro_batch in _micro_batches(each, wish.micro_batch):
                passes = -(-each // micro_batch)
                yield from _choices(data, tensor, replicas, micro_batch, passes, wish)


def tensor_sizes(config: ModelConfig, cluster: Cluster) -> list[int]:
    """Give the tensor groups that divide a node and everything they split.

    >>> from llama_cli.model.config import SIZES
    >>> from llama_cli.parallel.gpus import machines
    >>> [tensor_sizes(SIZES[size], machines("a100-80gb", 2048)) for size in ("33b", "65b")]
    [[1, 2, 4], [1, 2, 4, 8]]
    """
    split = (config.key_heads, config.hidden, config.vocab_size, config.context, cluster.node)
    return [n for n in range(1, cluster.node + 1) if not any(each % n for each in split)]


def _replicas(cluster: Cluster, tensor: int, wished: int | None) -> list[int]:
    """Give 1, and one replica a node: more network for gradients, none for weights."""
    if wished:
        return [wished] if cluster.gpus // tensor % wished == 0 else []
    return [1, cluster.nodes] if cluster.nodes > 1 and tensor < cluster.node else [1]


def _choices(
    data: int, tensor: int, replicas: int, micro_batch: int, passes: int, wish: Wish
) -> Iterator[Layout]:
    for activations in ACTIVATIONS:
        if wish.activations in (None, activations):
            for reshard in (False, True) if data > replicas else (False,):
                if data > replicas and wish.reshard not in (None, reshard):
                    continue
                yield Layout(data, tensor, micro_batch, passes, activations, reshard, replicas)


def _micro_batches(each: int, wished: int | None) -> list[int]:
    return [min(wished, each)] if wished else [n for n in range(1, each + 1) if each % n == 0]


def _check(config: ModelConfig, cluster: Cluster, batch: int, wish: Wish) -> None:
    gpus, node = cluster.gpus, cluster.node
    if config.tied and gpus > 1:
        raise UsageError(
            "a model whose head is its embedding is trained on one GPU, not on several",
            hint="llama train --dry-run --gpus 1",
        )
    again = "llama train --dry-run --gpus"
    if gpus % node:
        raise UsageError(
            f"{gpus:,} GPUs are not whole nodes of {node}", hint=f"{again} {gpus // node * node}"
        )
    sizes = tensor_sizes(config, cluster)
    if wish.tensor not in (None, *sizes):
        smaller = max(n for n in sizes if n <= (wish.tensor or 1))
        raise UsageError(
            f"tensor groups of {wish.tensor} do not divide {config.key_heads} heads, "
            f"a hidden width of {config.hidden:,} and nodes of {node} GPUs",
            hint=f"{again} {gpus} --tensor {smaller}",
        )
    ranks = [gpus // each for each in ([wish.tensor] if wish.tensor else sizes)]
    if batch < min(ranks):
        raise UsageError(
            f"a batch of {batch:,} sequences leaves nothing to some of {min(ranks):,} data ranks",
            hint=f"{again} {gpus} --batch {min(ranks)}",
        )
    if wish.replicas and all(data % wish.replicas for data in ranks):
        raise UsageError(
            f"{wish.replicas} replicas of the weights do not divide {max(ranks):,} data ranks",
            hint=f"{again} {gpus} --replicas 1",
        )
