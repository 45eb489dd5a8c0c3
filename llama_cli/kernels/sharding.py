"""How the attention operators are spread over devices when their tensors are DTensors.

Batches are independent, and so are heads, with the key heads that they read: sharding either
needs no communication, in the forward or in the backward. Everything else is replicated.
Bounds, if any, are then a DTensor as well.
Legend: B batch, H heads, G key heads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations
from math import prod
from typing import Any

import torch

MODULE = "torch.distributed.tensor"  # half a second to import, and not in every build of torch

Placements = list[Any]  # of one mesh axis; None for what is no tensor
Rule = tuple[Placements, Placements]  # of the outputs, and of the arguments

_registered = False


def register() -> None:
    """Tell DTensor the rules, once it is there; whoever makes a DTensor has imported it."""
    global _registered
    if not _registered and MODULE in sys.modules:
        from torch.distributed.tensor.experimental import register_sharding

        register_sharding(torch.ops.llama.causal_attention.default)(forward_rules)
        register_sharding(torch.ops.llama.causal_attention_backward.default)(backward_rules)
        _registered = True


# What torch.compiler.assume_constant_result sets, without importing the compiler (a second):
# under torch.compile this runs while the model is traced, and leaves nothing in the graph.
register._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forward_rules(q: Any, k: Any, _: Any, bounds: Any, *__: Any) -> list[Rule]:
    """List the placements of (out, lse) and those of (q, k, v, bounds, deterministic)."""
    return [
        ([own, own], [own, own, own, near if bounds is not None else None, None])
        for own, near in _placements(q, k)
    ]


def backward_rules(q: Any, k: Any, *rest: Any) -> list[Rule]:
    """List the placements of the three gradients and those of what the operator takes."""
    bounds = rest[-2]
    return [
        ([own] * 3, [*[own] * 6, near if bounds is not None else None, None])
        for own, near in _placements(q, k)
    ]


def _placements(q: Any, k: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where q (and all that is like it) may lie on a mesh axis, and bounds with it."""
    from torch.distributed.tensor import Replicate, Shard

    yield Replicate(), Replicate()
    batch, heads, *_ = q.shape
    if _even(q.mesh, batch):
        yield Shard(0), Shard(1)  # bounds are (2, B, L)
    if _even(q.mesh, heads) and _even(q.mesh, k.shape[1]):
        yield Shard(1), Replicate()


def _even(mesh: Any, size: int) -> bool:
    """Say whether every device would get as much of `size`, over whichever axes it is sharded.

    An uneven share of heads would part queries from their keys, and one of the batch may be
    empty. More devices than `size` are left to DTensor, which refuses them by itself.
    """
    axes = [n for n in mesh.shape if n > 1]
    counts = (prod(some) for r in range(1, len(axes) + 1) for some in combinations(axes, r))
    return all(size % n == 0 for n in counts if n <= size)
