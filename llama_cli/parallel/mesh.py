"""The processes of one run as a mesh: data x tensor.

    data     ranks see other rows of each batch, and hold a part of every weight (FSDP2)
    tensor   ranks share each layer: heads, hidden width, vocabulary (tensor.py); they talk most,
             so neighbours do, which torchrun starts on one machine

With `replicas`, data is replicas x shards: weights are whole within one replica, and only their
gradients cross to the others (HSDP). What a process is, torchrun says in RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT. One process alone needs nothing of all this.

When a rank fails, the others fail after it, because it no longer answers. One of them speaks:
the first that claims the word in the store that all share. That a rank no longer answers is the
launcher's to say, if there is one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from llama_cli.errors import LAUNCHER, LOST, Elsewhere, LlamaError, UsageError
from llama_cli.model.config import ModelConfig

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

WORD = "llama/word"  # in the store: how many ranks wanted to say how the run ended
PATIENCE = timedelta(minutes=30)  # with a rank that does not come, as while it saves; ours
TIED = "a model whose head is its embedding is trained by one process, not by several"
LOOK = 0.02  # seconds between two looks for a word; ours
LOSSES = ("gloo", "connection closed", "connection reset")  # in what torch says of a lost rank


@dataclass(frozen=True, slots=True)
class Mesh:
    """One rank's place among `data` x `tensor`; without arguments, a process alone."""

    data: int = 1
    tensor: int = 1
    replicas: int = 1  # of the weights, among the data ranks
    rank: int = 0
    device: str = "cpu"
    axes: DeviceMesh | None = None  # None for a process alone
    store: Store | None = None  # which all ranks share; None for a process alone

    @property
    def size(self) -> int:
        """Count the ranks."""
        return self.data * self.tensor

    @property
    def data_rank(self) -> int:
        """Say which rows of a batch are this rank's."""
        return self.rank // self.tensor

    @property
    def tensor_rank(self) -> int:
        """Say which part of each layer is this rank's."""
        return self.rank % self.tensor

    @property
    def shards(self) -> int:
        """Count the parts of a weight along data."""
        return self.data // self.replicas

    @property
    def shard_rank(self) -> int:
        """Say which of these parts is this rank's."""
        return self.data_rank % self.shards

    @property
    def part(self) -> int:
        """Number the part of all weights that this rank holds, of `parts`, from 1."""
        return self.shard_rank * self.tensor + self.tensor_rank + 1

    @property
    def parts(self) -> int:
        """Count the ranks that hold the weights once."""
        return self.shards * self.tensor

    @property
    def owns(self) -> bool:
        """Say whether this rank's part is the one that counts, not a replica of it."""
        return self.data_rank == self.shard_rank

    @property
    def first(self) -> bool:
        """Say whether this is the rank that writes and speaks for all."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """Give this rank's part of a batch; where it does not divide, some have one row more.

        >>> Mesh(data=4, tensor=2, rank=5).rows(8)
        range(4, 6)
        >>> [len(Mesh(data=3, rank=rank).rows(8)) for rank in range(3)]
        [2, 3, 3]
        """
        first, after = (rank * batch // self.data for rank in (self.data_rank, self.data_rank + 1))
        return range(first, after)

    def most_rows(self, batch: int) -> int:
        """Count the rows of the rank that has most of them."""
        return -(-batch // self.data)

    def axis(self, name: str) -> DeviceMesh:
        """Give the ranks along "data" (HSDP's two axes, if there are replicas) or "tensor"."""
        assert self.axes is not None, "a process alone has no axes"
        if name == "data" and self.replicas > 1:
            return self.axes["replicate", "shard"]
        return self.axes[name]

    def total(self, x: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def largest(self, x: Tensor) -> Tensor:
        """Give the maximum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x, dist.ReduceOp.MAX)
        return x

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def told(self, value: T) -> T:
        """Give every rank the value of the first."""
        if self.size == 1:
            return value
        kept = [value]
        dist.broadcast_object_list(kept, src=0)
        return kept[0]

    def gathered(self, value: T) -> list[T]:
        """Give every rank the values of all, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def leave_word(self, key: str, value: object) -> None:
        """Leave a word, in JSON, for a rank that looks for it, without meeting; from any thread."""
        assert self.store is not None, "a process alone has nobody to talk to"
        self.store.set(key, json.dumps(value))

    def find_word(self, key: str, give_up: Callable[[], bool]) -> Any:
        """Wait for a word that another rank leaves, and take it; from any thread.

        Raises:
            LlamaError: it was given up.
        """
        assert self.store is not None, "a process alone has nobody to listen to"
        while not self.store.check([key]):  # a `get` that waits would hold up other threads
            if give_up():
                raise LlamaError("given up")
            time.sleep(LOOK)
        value = json.loads(self.store.get(key))
        self.store.delete_key(key)
        return value

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first rank through, and the others when it is done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ONE = Mesh()


def check(mesh: Mesh, config: ModelConfig, *, batch: int, size: str) -> None:
    """Refuse a model that does not divide over the mesh, or a batch too small for it, in one line.

    Raises:
        UsageError: it does not.

    >>> from llama_cli.model.config import SIZES
    >>> check(Mesh(tensor=8), SIZES["33b"], batch=8, size="33b")
    Traceback (most recent call last):
    llama_cli.errors.UsageError: the 52 heads of the 33b do not divide by 8 tensor ranks
    """
    if config.tied and mesh.size > 1:
        raise UsageError(TIED, hint="CUDA_VISIBLE_DEVICES=0 llama train")
    for what, count in (
        (f"heads of the {size}", config.heads),
        (f"heads of keys and values of the {size}", config.key_heads),
        (f"hidden width of the {size}", config.hidden),
        ("pieces of the vocabulary", config.vocab_size),
        ("positions of a sequence", config.context),
    ):
        if count % mesh.tensor:
            raise UsageError(
                f"the {count:,} {what} do not divide by {mesh.tensor} tensor ranks",
                hint=f"llama train --tensor {_divisor(mesh.tensor, config)}",
            )
    if batch < mesh.data:
        raise UsageError(
            f"a batch of {batch:,} {'sequence' if batch == 1 else 'sequences'} leaves nothing to "
            f"some of {mesh.data} data ranks",
            hint=f"llama train --batch {mesh.data}",
        )


def _divisor(tensor: int, config: ModelConfig) -> int:
    counts = (config.key_heads, config.hidden, config.vocab_size, config.context, tensor)
    return next(n for n in range(tensor, 0, -1) if not any(count % n for count in counts))


def shape(world: int, *, tensor: int = 1, replicas: int = 1) -> Mesh:
    """Arrange `world` ranks.

    Raises:
        UsageError: they cannot be.
    """
    if world % tensor:
        raise UsageError(
            f"{world} {_processes(world)} cannot be shared by tensor groups of {tensor}",
            hint="llama train --tensor 1",
        )
    data = world // tensor
    if data % replicas:
        raise UsageError(
            f"{data} data {_ranks(data)} cannot hold {replicas} replicas of the weights",
            hint="llama train --replicas 1",
        )
    return Mesh(data, tensor, replicas)


def _processes(count: int) -> str:
    return "process" if count == 1 else "processes"


def _ranks(count: int) -> str:
    return "rank" if count == 1 else "ranks"


@contextmanager
def joined(device: str, *, tensor: int = 1, replicas: int = 1) -> Iterator[Mesh]:
    """Join the other processes of the run, if there are any; part from them at the end.

    Args:
        device: "cpu", or "cuda" for the GPU of LOCAL_RANK.
        tensor: ranks that share each layer; the rest of the world is data.
        replicas: of the weights, among the data ranks.

    Raises:
        UsageError: the processes cannot be arranged so.
        Elsewhere: another rank has said how the run ended.
    """
    world = int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1
    if world == 1:
        yield replace(shape(1, tensor=tensor, replicas=replicas), device=device)
        return
    found, rank, _ = next(iter(rendezvous("env://")))
    # torchrun's store may stay when it starts the processes again
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), found)
    with _one_voice(store):
        mesh = replace(shape(world, tensor=tensor, replicas=replicas), rank=rank)
        mesh = _begin(mesh, device, store)
        yield mesh
        mesh.wait()  # else a process that ends early takes the others' connections with it
        dist.destroy_process_group()


def _begin(mesh: Mesh, device: str, store: Any) -> Mesh:
    from torch.distributed.device_mesh import init_device_mesh

    options: dict[str, Any] = {}
    if device == "cuda":  # pragma: no cover (gpu)
        options["device_id"] = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(options["device_id"])
    backend = "nccl" if device == "cuda" else "gloo"
    options |= {"timeout": PATIENCE, "store": store, "rank": mesh.rank, "world_size": mesh.size}
    dist.init_process_group(backend, **options)
    if mesh.replicas > 1:
        sizes = {"replicate": mesh.replicas, "shard": mesh.shards, "tensor": mesh.tensor}
    else:
        sizes = {"data": mesh.data, "tensor": mesh.tensor}
    axes = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    return replace(mesh, device=device, axes=axes, store=store)


@contextmanager
def _one_voice(store: Any) -> Iterator[None]:
    """Let the first error of all ranks through, and end the others without words."""
    try:
        yield
    except Exception as error:
        lost = _is_loss(error)
        if lost and LAUNCHER in os.environ:  # which has the words, and may go on
            raise Elsewhere(str(error), exit_code=LOST) from error
        if not _claimed(store):
            raise Elsewhere(str(error), exit_code=getattr(error, "exit_code", 1)) from error
        if lost:
            raise LlamaError(
                "a process of this run has gone", hint="the same command again"
            ) from error
        raise


def _claimed(store: Any) -> bool:
    with suppress(Exception):  # the store has gone with the process that held it: speak
        return int(store.add(WORD, 1)) == 1
    return True


def _is_loss(error: Exception) -> bool:
    """Tell a rank that no longer answers from a mistake of this one."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in LOSSES)
