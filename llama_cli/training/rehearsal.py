"""One rank of a layout, run without GPU, memory or network: the real code on fake tensors.

The process group is PyTorch's "fake" one, whose collectives return at once; tensors are fake ones,
which have a shape and no storage. Model, FSDP2, tensor parallelism, loss and optimizer are those of
training. So a layout that cannot run fails here, and what a rank holds and sends is counted where
the plan (parallel/memory.py, parallel/traffic.py) has it by arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed import ProcessGroup, distributed_c10d
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_cli.model.blank import blank
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer
from llama_cli.parallel.gpus import Cluster
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.memory import need
from llama_cli.parallel.mesh import Mesh
from llama_cli.parallel.shapes import groups
from llama_cli.parallel.tensor import exchange, split
from llama_cli.parallel.traffic import Axis, Kind, messages, total_sent
from llama_cli.training.batch import Batch
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS, clip
from llama_cli.training.settings import Settings

KINDS: Mapping[str, Kind] = {
    "_allgather_base_": "gather",
    "_reduce_scatter_base_": "scatter",
    "allreduce_": "sum",
    "all_gather_into_tensor": "gather",
    "reduce_scatter_tensor": "scatter",
    "all_reduce": "sum",
}


@dataclass(frozen=True, slots=True)
class Counted:
    """What the first rank of a layout held and sent in one pass of one step."""

    parameters: int
    states: int  # bytes of weights, gradients and moments
    activations: int  # bytes that the layers kept for the backward
    sent: Mapping[tuple[Axis, Kind], float]  # bytes


def beside_plan(
    config: ModelConfig, layout: Layout, cluster: Cluster, counted: Counted
) -> list[tuple[str, float, float]]:
    """Name each figure of `counted`, with what the plan has for one pass, and what it is.

    Activations are left out for "keep", which is planned as torch.compile keeps, and was counted
    without.
    """
    found, planned = groups(config, layout.tensor), need(config, layout, cluster)
    states = planned.weights + planned.gradients + planned.optimizer
    rows: list[tuple[str, float, float]] = [
        ("parameters", found.of_rank(layout.shards), counted.parameters),
        ("fp32 states", float(states), float(counted.states)),
    ]
    if layout.activations != "keep":
        rows.append(("activations", planned.activations, float(counted.activations)))
    sent = total_sent(messages(config, layout, sums=1))
    for (axis, kind), size in sent.items():
        rows.append((f"sent: {kind} over {axis}", size, counted.sent.get((axis, kind), 0.0)))
    return rows


def rehearse(config: ModelConfig, layout: Layout) -> Counted:
    """Run forward, backward and optimizer of one micro-batch on the first rank of `layout`."""
    with _group(layout) as mesh, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on views and versions; real runs show them
        with blank():
            model = Transformer(config, activations=layout.activations, exchange=exchange(mesh))
        split(model, mesh)
        settings = Settings(
            steps=1, batch=layout.micro_batch * layout.data, lr=1e-4, warmup=1, dtype="bf16"
        )
        with _Fake():
            trainer = _Rehearsed(
                model,
                settings,
                micro_batch=layout.micro_batch,
                mesh=mesh,
                reshard=layout.reshard,
            )
            return trainer.rehearse(config, layout.micro_batch)


class _Rehearsed(Trainer):
    """A trainer whose numbers are not there."""

    def rehearse(self, config: ModelConfig, rows: int) -> Counted:
        """Do what `step` does, but for what looks at numbers; count."""
        batch = Batch(torch.zeros(rows, config.context + 1, dtype=torch.int64))
        kept = _Kept(self.model)
        with _Sent(self.mesh) as sent:
            with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                loss = self._backward(batch)
            gradients = self._gradients()
            states = self._states()
            _, norm, _ = self._agree(loss, gradients, ())
            clip(self.optimizer, norm)
            self.optimizer.step()
        numbers = sum(part.local.numel() for part in self.parts)
        return Counted(numbers, states, kept.size, sent.sent)

    def _states(self) -> int:
        weights = [part.local for part in self.parts]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        found = self.optimizer.state.values()
        moments = [state[name] for state in found for name in MOMENTS]
        return sum(tensor.nbytes for tensor in (*weights, *gradients, *moments))


@contextmanager
def _group(layout: Layout) -> Iterator[Mesh]:
    """Be the first of the layout's ranks; the others are not there and do not matter."""
    mesh = Mesh(layout.data, layout.tensor, layout.replicas)
    if mesh.size == 1:
        yield mesh
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=mesh.size)
    try:
        sizes = {"data": layout.data, "tensor": layout.tensor}
        if layout.replicas > 1:
            sizes = {"replicate": layout.replicas, "shard": layout.shards, "tensor": layout.tensor}
        axes = init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        yield Mesh(layout.data, layout.tensor, layout.replicas, axes=axes)
    finally:
        dist.destroy_process_group()


class _Fake(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Fake tensors, but for ranks: what follows from a mesh's numbers alone is computed.

    What is on "meta" stays there until it is given a device, which is much quicker where FSDP2
    cuts each weight into a thousand parts.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        device = str((kwargs or {}).get("device") or "meta")
        if found and device == "meta" and all(map(_is_plain, found)):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def _is_plain(tensor: Tensor) -> bool:
    fake = isinstance(tensor, FakeTensor)
    return not fake and (tensor.is_meta or not tensor.is_floating_point())


class _Kept:
    """Bytes of what the layers keep for the backward, weights apart."""

    def __init__(self, model: Transformer) -> None:
        self.size, self.inside = 0, False
        self.known: set[int] = set()  # storages
        self.held: list[Tensor] = []  # so that no storage's number is given to another
        for layer in model.layers:  # after FSDP2's own hooks: the weights are there
            layer.register_forward_pre_hook(self._enter)
            layer.register_forward_hook(self._leave)

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd keeps."""
        if self.inside:
            self.size += self._new(tensor)
        return tensor

    def _new(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return 0
        self.known.add(storage._cdata)
        self.held.append(tensor)
        return storage.nbytes()

    def _enter(self, layer: nn.Module, _: Any) -> None:
        for weight in layer.parameters():
            self._new(weight.to_local() if hasattr(weight, "to_local") else weight)
        self.inside = True

    def _leave(self, *_: Any) -> None:
        self.inside = False


class _Sent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes that collectives send, by axis and kind; a ring's, as the plan counts them."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: dict[tuple[Axis, Kind], float] = {}
        self.tensor = mesh.axis("tensor").get_group() if mesh.size > 1 else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = KINDS.get(func.overloadpacket.__name__) if "c10d" in func.namespace else None
        if kind:
            leaves = tree_leaves((args, kwargs, out))
            group = next(found for leaf in leaves if (found := _group_of(leaf)))
            whole = max(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
            twice, ranks = 2 if kind == "sum" else 1, group.size()
            axis: Axis = "tensor" if group == self.tensor else "data"
            size = twice * whole * (ranks - 1) / ranks
            self.sent[axis, kind] = self.sent.get((axis, kind), 0.0) + size
        return out


def _group_of(leaf: Any) -> ProcessGroup | None:
    """Give the group that an argument of a collective is, or names."""
    try:
        if isinstance(leaf, torch.ScriptObject):
            return ProcessGroup.unbox(leaf)
        if isinstance(leaf, str):
            named: Any = distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
            group: ProcessGroup = named(leaf)
            return group
    except (LookupError, RuntimeError, TypeError, ValueError):  # a reduction, or its name
        return None
    return None
