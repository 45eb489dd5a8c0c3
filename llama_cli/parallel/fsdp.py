"""Data parallelism that shards: FSDP2, a group of parameters at a time.

Zhao et al., 2023, https://arxiv.org/abs/2304.11277. Each layer is a group, gathered while the one
before it computes and given back after use; so is the head. The embedding and the last norm
are the root's. Where products are in bf16, weights travel in bf16; gradients are summed in
fp32, and what each rank keeps of weights and gradients is fp32. Gradients are added up, not
averaged: the loss is divided by the tokens of the whole batch (training/loss.py).
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from llama_cli.model.transformer import Transformer
from llama_cli.parallel.mesh import Mesh

GRADIENT = 4  # bytes a parameter
ROOM = 0.125  # of a GPU's memory that whole gradients may take between micro-batches; ours


def shard(
    root: nn.Module,
    model: Transformer,
    mesh: Mesh,
    *,
    bf16: bool,
    reshard: bool = True,
) -> None:
    """Shard `model`, which lies under `root`, over the data axis.

    Args:
        root: the module that is called; what is in it and in no group becomes a group.
        model: whose layers are groups. Its head is one when `output.loss` is called.
        mesh: with more than one data rank.
        bf16: gather weights in bf16, and sum their gradients in fp32.
        reshard: give a layer's weights back after its forward, and gather them again for its
            backward: less memory, half as much more traffic.
    """
    axis = mesh.axis("data")
    # a layer's output may be a view of its last product; nothing is added to it in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    # what a layer is given keeps its dtype: rotary tables stay fp32
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
    )
    for group in (*model.layers, model.output):
        fully_shard(group, mesh=axis, reshard_after_forward=reshard, mp_policy=policy)
    register_fsdp_forward_method(model.output, "loss")
    fully_shard(root, mesh=axis, mp_policy=policy)
    _prefetch(root, model)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def _prefetch(root: nn.Module, model: Transformer) -> None:
    """Let each group send for the next one's weights before it computes, both ways."""
    groups = [_sharded(group) for group in (root, *model.layers, model.output)]
    for group, after in pairwise(groups):
        group.set_modules_to_forward_prefetch([after])
    for before, group in pairwise(groups[1:]):
        group.set_modules_to_backward_prefetch([before])


def _sharded(module: nn.Module) -> FSDPModule:
    assert isinstance(module, FSDPModule)
    return module


def reduce_now(root: nn.Module, now: bool) -> None:
    """Say whether the next backward adds the gradients up over the data ranks, or keeps them."""
    if isinstance(root, FSDPModule):
        root.set_requires_gradient_sync(now)
        root.set_is_last_backward(now)


def keeps_whole_gradients(parameters: int, mesh: Mesh) -> bool:
    """Say whether gradients are kept whole between micro-batches, and cross the network once.

    It takes 4 bytes for each parameter of a tensor rank; on a CPU it is always done.
    """
    if mesh.device == "cpu":
        return True
    memory = torch.cuda.get_device_properties(mesh.device).total_memory  # pragma: no cover (gpu)
    return GRADIENT * parameters / mesh.tensor <= ROOM * memory  # pragma: no cover (gpu)


def release(root: nn.Module) -> None:
    """Give back what weights were gathered for a forward without a backward."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
