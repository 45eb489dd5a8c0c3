"""Tensor parallelism: which part of each parameter a rank has, and how the ranks exchange.

Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053, section 3: wq, wk, wv by heads, w1, w3
by the hidden width (rows of a weight), wo, w2 by columns; embedding and head by vocabulary.
Between the layers positions are split (Korthikanti et al., 2022, section 4.2.2): the model asks
for this through `model.exchange`, and here is that over a process group. Norms are whole on
every rank. Legend: B batch, L length, d width, T ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from llama_cli.model.exchange import ALONE, Exchange
from llama_cli.model.split import split_dim
from llama_cli.parallel.mesh import Mesh


def split(model: nn.Module, mesh: Mesh) -> None:
    """Keep this rank's part of every parameter, as a DTensor over the tensor axis.

    Works on "meta" too, where there are shapes and no memory.
    """
    if mesh.tensor == 1:
        return
    axis = mesh.axis("tensor")
    for name, weight in list(model.named_parameters()):
        dim = split_dim(name)
        part = weight.detach()
        if dim is not None:
            part = part.chunk(mesh.tensor, dim)[mesh.tensor_rank].contiguous()
        placement = Replicate() if dim is None else Shard(dim)
        found = DTensor.from_local(part, axis, [placement], run_check=False)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(found))


def exchange(mesh: Mesh) -> Exchange:
    """Give what the model needs to share its layers over the tensor axis."""
    if mesh.tensor == 1:
        return ALONE
    group = mesh.axis("tensor").get_group()
    on_gloo = dist.get_backend(group) == "gloo"
    return Group(mesh.tensor, mesh.tensor_rank, group.group_name, gathers_by_sum=on_gloo)


@dataclass(frozen=True, slots=True)
class Group:
    """An `Exchange` over a process group.

    Its collectives are PyTorch's functional ones: torch.compile keeps them in its graph, and
    until they are waited for they run beside whatever else is computed.

    On Gloo, at least in PyTorch 2.13.0, the gathering one (AsyncAllgatherCoalescedWork) corrupts
    the heap now and then where many messages of a few KB follow each other: one run in six of 200
    steps in fp64 ended so, and none of twenty that sum what is zero elsewhere: twice the traffic.
    """

    size: int
    rank: int
    name: str  # by which torch.distributed knows the group
    gathers_by_sum: bool = False

    def gather(self, x: Tensor) -> Sent:
        """Begin to collect every rank's positions: (B, L/T, d) to (B, L, d)."""
        if self.gathers_by_sum:
            whole = x.new_zeros(self.size, *x.shape)
            whole[self.rank] = x
            whole = whole.flatten(0, 1)
            return Sent(_collectives().all_reduce(whole, "sum", self.name), ranks=self.size)
        found = _collectives().all_gather_into_tensor(x.contiguous(), self.size, self.name)
        return Sent(found, ranks=self.size)

    def scatter(self, y: Tensor) -> Sent:
        """Begin to sum over the ranks, each of which keeps its positions: the opposite shapes."""
        # what goes to one rank lies together; that is a copy unless B is 1
        parts = (
            y.reshape(len(y), self.size, -1, *y.shape[2:])
            .transpose(0, 1)
            .contiguous()
            .flatten(0, 1)
        )
        found = _collectives().reduce_scatter_tensor(parts, "sum", self.size, self.name)
        return Sent(found)

    def total(self, x: Tensor) -> Tensor:
        """Sum over the ranks."""
        return Sent(_collectives().all_reduce(x, "sum", self.name)).wait()

    def largest(self, x: Tensor) -> Tensor:
        """Give the maximum over the ranks."""
        return Sent(_collectives().all_reduce(x, "max", self.name)).wait()

    def local(self, weight: Tensor, *, shared: bool = False) -> Tensor:
        """Give this rank's part of a parameter, for autograd too.

        The gradient of a `shared` one is that of this rank's positions: `sum_shared` adds the
        ranks' up once a step, in one message, instead of one a norm and micro-batch.
        """
        return weight.to_local() if isinstance(weight, DTensor) else weight


@dataclass(frozen=True, slots=True)
class Sent:
    """What a collective will have made once it is waited for."""

    tensor: Tensor
    ranks: int = 1  # whose (B, L/T, d) follow each other in it, where they are to be (B, L, d)

    def wait(self) -> Tensor:
        """Give it; a copy is made unless B is 1."""
        found: Tensor = _collectives().wait_tensor(self.tensor)
        if self.ranks == 1:
            return found
        x: Tensor = found.view(self.ranks, -1, *found.shape[1:]).transpose(0, 1).flatten(1, 2)
        return x


def _collectives() -> Any:
    return torch.ops._c10d_functional


def sum_shared(gradients: Sequence[Tensor], mesh: Mesh) -> None:
    """Add up over the tensor ranks, in place, the gradients of what they all hold whole."""
    if mesh.tensor == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=mesh.axis("tensor").get_group())
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
