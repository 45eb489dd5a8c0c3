"""Which part of which parameter a rank holds, in numbers that mean the same on any mesh.

A parameter is split over the tensor ranks by rows or columns (tensor.py), and each of these parts
over the data ranks by rows (FSDP2: as `chunk` does, the last ones may be shorter or empty). What
is left for one rank is always one rectangle, so an offset and a shape say which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llama_cli.model.config import ModelConfig
from llama_cli.model.split import split_dim
from llama_cli.model.stored import Slice
from llama_cli.model.transformer import first_weight
from llama_cli.parallel.mesh import Mesh


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter and this rank's slice of it."""

    weight: nn.Parameter  # what the model and FSDP know; its gradient appears here
    local: nn.Parameter  # the same memory as a plain tensor; what the optimizer updates
    held: Slice
    is_norm: bool  # tensor ranks hold it whole, and each has the gradient of its positions

    @property
    def gradient(self) -> Tensor | None:
        """Give this rank's part of the gradient."""
        grad = self.weight.grad
        return grad.to_local() if isinstance(grad, DTensor) else grad


def parts(model: nn.Module, mesh: Mesh) -> list[Part]:
    """List the parameters of a model that is split, sharded and in memory."""
    return [_part(name, weight, mesh) for name, weight in model.named_parameters()]


@torch.no_grad()
def _part(name: str, weight: nn.Parameter, mesh: Mesh) -> Part:
    tensor = weight.to_local() if isinstance(weight, DTensor) else weight
    dim, shape = split_dim(name), tuple(weight.shape)
    offset, length = [0] * len(shape), list(shape)
    if dim is not None:
        length[dim] //= mesh.tensor
        offset[dim] = mesh.tensor_rank * length[dim]
    each = -(-length[0] // mesh.shards)
    offset[0] += min(each * mesh.shard_rank, length[0])
    owner = mesh.data_rank == mesh.shard_rank and (dim is not None or mesh.tensor_rank == 0)
    local = weight if tensor is weight else nn.Parameter(tensor)
    held = Slice(name, shape, tuple(offset), tensor.detach(), owner)
    return Part(weight, local, held, is_norm=dim is None)


@torch.no_grad()
def draw_weights(parts: list[Part], config: ModelConfig, seed: int) -> None:
    """Do what `init_weights` does, on a model of which each rank has a part.

    Every rank draws every parameter, one at a time, and keeps its slice, so that the weights are
    the same on any mesh, and no rank ever has room for more than one whole parameter.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in parts:
        held = part.held
        held.tensor.copy_(first_weight(held.name, held.shape, config, generator)[held.where])
