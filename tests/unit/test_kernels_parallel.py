"""The attention operator in processes that share a model: FSDP2, tensor parallelism, DTensor.

Four processes start once, on gloo; each scenario runs in all of them, and what it finds is
compared here with one process that has the whole model. Everything is the emulated kernel.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing import start_processes
from torch.nn.functional import cross_entropy

from llama_cli.kernels import attention, extension
from llama_cli.kernels.documents import document_bounds
from llama_cli.kernels.library import Library, libraries, load

WORLD = 4
BATCH, LENGTH, VOCAB, STEPS = 4, 70, 50, 3  # length: more than a tile of 64
DIM, HEAD = 128, 64  # two heads

Found = dict[str, Any]


class Layer(nn.Module):
    """Attention as models write it, in fp32 but for the kernel: only that is rounded to bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))

    def forward(self, x_BLd: Tensor) -> Tensor:
        heads = (w(x_BLd).unflatten(-1, (-1, HEAD)) for w in (self.wq, self.wk, self.wv))
        narrow = (x.transpose(1, 2).bfloat16() for x in heads)
        out = attention.causal_attention(*narrow, asked="cuda").to(x_BLd.dtype)
        y: Tensor = x_BLd + self.wo(out.transpose(1, 2).flatten(2))
        return y


def new_model() -> nn.Sequential:
    torch.manual_seed(0)
    output = nn.Linear(DIM, VOCAB, bias=False)
    return nn.Sequential(nn.Embedding(VOCAB, DIM), Layer(), Layer(), output)


def train(prepare: Callable[[nn.Sequential], None], rows: slice = slice(None)) -> Found:
    """Take some steps of SGD on `rows` of each batch; return losses and last gradients."""
    model = new_model()
    prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    draw, losses = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        tokens = torch.randint(VOCAB, (BATCH, LENGTH + 1), generator=draw)[rows]
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    grads = {name: whole(x.grad) for name, x in model.named_parameters() if x.grad is not None}
    return {"losses": losses, "grads": grads}


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def shard_heads(model: nn.Sequential, mesh: DeviceMesh) -> None:
    for layer in model[1:3]:
        plan = {name: ColwiseParallel() for name in ("wq", "wk", "wv")}
        parallelize_module(layer, mesh, plan | {"wo": RowwiseParallel()})


def shard_weights(model: nn.Sequential, mesh: DeviceMesh) -> None:
    for layer in model[1:3]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def halves(mesh: DeviceMesh) -> slice:
    """Choose this process's part of the batch."""
    part = BATCH // mesh.size()
    return slice(mesh.get_local_rank() * part, (mesh.get_local_rank() + 1) * part)


def alone(mesh: DeviceMesh) -> Found:
    return train(lambda model: None)


def fsdp(mesh: DeviceMesh) -> Found:
    pair = mesh["data"]
    return train(lambda model: shard_weights(model, pair), halves(pair))


def tensor_parallel(mesh: DeviceMesh) -> Found:
    return train(lambda model: shard_heads(model, mesh["tensor"]))


def both(mesh: DeviceMesh) -> Found:
    def prepare(model: nn.Sequential) -> None:
        shard_heads(model, mesh["tensor"])
        shard_weights(model, mesh["data"])

    return train(prepare, halves(mesh["data"]))


def inputs(heads: int, key_heads: int, batch: int = 4) -> list[Tensor]:
    """Make q, k, v and the gradient of out."""
    draw = torch.Generator().manual_seed(2)
    each = (heads, key_heads, key_heads, heads)
    return [torch.randn(batch, h, 5, 64, generator=draw).bfloat16() for h in each]


def packed(batch: int = 4) -> Tensor:
    return document_bounds(torch.tensor([0, 2, 5 * batch]), batch, 5)


def attend(tensors: list[Tensor], bounds: Tensor | None) -> Found:
    """Return the results of the operators, forward and backward."""
    q, k, v, grad_out = tensors
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = extension.causal_attention(*leaves, bounds=bounds)
    grads = torch.autograd.grad(out, leaves, grad_out)
    lse = extension.forward(*leaves, bounds, True)[1]
    return {"out": out, "lse": lse} | dict(zip(("dq", "dk", "dv"), grads, strict=True))


NOWHERE = Replicate()
# heads, key heads, batch; placements on a mesh of 2 x 2, of what is given, and of the results
SPREAD: dict[str, tuple[int, int, int, list[Any], list[Any]]] = {
    "replicated": (2, 2, 4, [NOWHERE, NOWHERE], [NOWHERE, NOWHERE]),
    "batches": (2, 2, 4, [Shard(0), Shard(0)], [Shard(0), Shard(0)]),
    "heads": (4, 4, 2, [Shard(1), Shard(1)], [Shard(1), Shard(1)]),
    "batches and heads": (4, 2, 2, [Shard(0), Shard(1)], [Shard(0), Shard(1)]),
    "heads and batches": (4, 2, 2, [Shard(1), Shard(0)], [Shard(1), Shard(0)]),
    "one key head": (4, 1, 2, [Shard(0), Shard(1)], [Shard(0), NOWHERE]),
    "key heads that do not divide": (12, 6, 1, [Shard(1), Shard(1)], [NOWHERE, NOWHERE]),
    "batches that do not divide": (1, 1, 5, [Shard(0), Shard(0)], [NOWHERE, NOWHERE]),
    "rows": (2, 2, 2, [Shard(2), Shard(3)], [NOWHERE, NOWHERE]),
}


def dtensors(mesh: DeviceMesh) -> Found:
    """Call the operator on DTensors, with and without bounds: placements, values, and true ones."""
    found: Found = {}
    for name, (heads, key_heads, batch, placements, _) in SPREAD.items():
        for kind, bounds in (("", None), (", packed", packed(batch))):
            given = inputs(heads, key_heads, batch)
            spread = [distribute_tensor(x, mesh, placements) for x in given]
            near = distribute_tensor(bounds, mesh, [NOWHERE] * 2) if bounds is not None else None
            results = attend(spread, near)
            placed = {name: x.placements for name, x in results.items()}
            values = {name: whole(x) for name, x in results.items()}
            found[name + kind] = (placed, values, attend(given, bounds))
    return found


def compiled(mesh: DeviceMesh) -> Found:
    """Call it on DTensors under torch.compile, batches over one axis and heads over the other."""
    whole_q, k, v, _ = inputs(4, 2)
    placements = [Shard(0), Shard(1)]
    leaves = [distribute_tensor(x, mesh, placements).requires_grad_() for x in (whole_q, k, v)]
    attend = torch.compile(extension.causal_attention, fullgraph=True, backend="aot_eager")
    found = {}
    for name, call in (("compiled", attend), ("eager", extension.causal_attention)):
        out = call(*leaves)
        grads = torch.autograd.grad(out.sum(), leaves)
        found[name] = [x.full_tensor() for x in (out, *grads)]
    return found


# `compiled` comes first, so that the rules are registered while the compiler traces
SCENARIOS = (compiled, alone, fsdp, tensor_parallel, both, dtensors)


def work(rank: int, library: str, folder: Path) -> None:
    """Run every scenario in this process, and let the first write down what was found."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    libraries["cpu"] = load(Path(library))
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    mesh = DeviceMesh("cpu", torch.arange(WORLD).view(2, 2), mesh_dim_names=("data", "tensor"))
    for scenario in SCENARIOS:
        try:
            found: Any = scenario(mesh)
        except Exception:
            found = traceback.format_exc()
        torch.save(found, folder / f"{scenario.__name__}-{rank}")
    dist.barrier()  # else a process that ends early takes the others' connections with it
    dist.destroy_process_group()


Results = Callable[[Callable[..., Found]], list[Any]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, emulated_library: Library) -> Results:
    """Run all scenarios in four processes; give what each of them found in one."""
    folder = tmp_path_factory.mktemp("parallel")
    set_forkserver_preload([__name__])  # so that torch is imported once, not four times
    arguments = (emulated_library._name, folder)
    start_processes(work, arguments, nprocs=WORLD, start_method="forkserver")

    def gather(scenario: Callable[..., Found]) -> list[Any]:
        paths = [folder / f"{scenario.__name__}-{rank}" for rank in range(WORLD)]
        found = [torch.load(path, weights_only=False) for path in paths]
        failed = [x for x in found if isinstance(x, str)]
        assert not failed, failed[0]
        return found

    return gather


def mean(losses: list[list[float]]) -> list[float]:
    return [sum(each) / len(each) for each in zip(*losses, strict=True)]


@pytest.mark.parametrize("scenario", [fsdp, tensor_parallel, both])
def test_losses_and_gradients_are_those_of_one_process(ran: Results, scenario) -> None:
    expected, found = ran(alone)[0], ran(scenario)
    assert mean([x["losses"] for x in found]) == pytest.approx(expected["losses"], rel=1e-4)
    assert found[0]["grads"].keys() == expected["grads"].keys()
    for name, x in expected["grads"].items():
        assert (found[0]["grads"][name] - x).norm() <= 1e-2 * x.norm(), name


def test_compiled_dtensors_are_those_of_eager(ran: Results) -> None:
    found = ran(compiled)[0]
    assert all(map(torch.equal, found["compiled"], found["eager"]))


@pytest.mark.parametrize("kind", ["", ", packed"])
@pytest.mark.parametrize("name", SPREAD)
def test_dtensors_stay_where_they_need_not_move(ran: Results, name: str, kind: str) -> None:
    placed, values, true = ran(dtensors)[0][name + kind]
    assert {tuple(x) for x in placed.values()} == {tuple(SPREAD[name][-1])}
    for result, x in true.items():
        assert torch.equal(values[result], x), result
