"""Worlds of processes that train a tiny model, and what each of them finds.

Four processes start once, on gloo; each case joins those it needs as a mesh, as torchrun's
processes would, trains, and parts from them. The first rank's findings are kept.
"""

from __future__ import annotations

import functools
import os
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore
from torch.multiprocessing import start_processes

from llama_cli.model.config import Activations, ModelConfig
from llama_cli.model.stored import Slice
from llama_cli.model.transformer import Transformer
from llama_cli.parallel.mesh import ONE, Mesh, joined
from llama_cli.parallel.tensor import exchange, split
from llama_cli.training.batch import Batch
from llama_cli.training.loop import Trainer
from llama_cli.training.settings import DType, Settings

WORLD = 4
VOCAB, LENGTH, BATCH = 48, 16, 8
CONFIG = ModelConfig(dim=32, layers=2, heads=4, hidden=64, vocab_size=VOCAB, context=LENGTH)

Found = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """How one world trains."""

    ranks: int = 4
    tensor: int = 1
    replicas: int = 1
    activations: Activations = "keep"
    reshard: bool = True
    micro_batch: int | None = None
    compile: str | None = None  # a backend of torch.compile
    double: bool = False
    dtype: DType = "fp32"
    steps: int = 0  # 0 for gradients only
    kv_heads: int = 0  # of 4 heads
    masked: bool = False  # some targets do not count, and documents are kept apart


def batch(number: int, case: Case, mesh: Mesh = ONE) -> Batch:
    """Draw the sequences of a step, and give a rank its rows."""
    found = _whole_batch(number, case)
    rows = mesh.rows(BATCH)
    part = slice(rows.start, rows.stop)
    counts, bounds = found.counts, found.bounds
    mine = Batch(
        found.tokens[part],
        None if counts is None else counts[part],
        None if bounds is None else bounds[:, part].contiguous(),
    )
    return mine.padded(mesh.most_rows(BATCH)) if BATCH % mesh.data else mine


def _whole_batch(number: int, case: Case) -> Batch:
    draw = torch.Generator().manual_seed(number)
    tokens = torch.randint(VOCAB, (BATCH, LENGTH + 1), generator=draw)
    if not case.masked:
        return Batch(tokens)
    counts = torch.rand(BATCH, LENGTH, generator=draw) < torch.linspace(0.1, 0.9, BATCH)[:, None]
    starts = torch.tensor([0] * 7 + [7] * 9).expand(BATCH, -1)
    ends = torch.tensor([7] * 7 + [16] * 9).expand(BATCH, -1)
    bounds = torch.stack((starts, ends)).to(torch.int32)
    return Batch(tokens, counts, bounds)


def trainer(case: Case, mesh: Mesh, config: ModelConfig = CONFIG) -> Trainer:
    """Make one rank's trainer as a run does."""
    config = replace(config, kv_heads=case.kv_heads)
    settings = Settings(steps=max(case.steps, 1), batch=BATCH, lr=1e-2, warmup=5, dtype=case.dtype)
    with torch.device("meta"):
        model = Transformer(config, activations=case.activations, exchange=exchange(mesh))
        model = model.double() if case.double else model
    split(model, mesh)
    found = Trainer(
        model,
        settings,
        micro_batch=case.micro_batch,
        compile=case.compile is not None,
        mesh=mesh,
        reshard=case.reshard,
    )
    found.draw_weights()
    return found


def gradients(case: Case, mesh: Mesh) -> Found:
    """Give the loss and every parameter's gradient, whole."""
    found = trainer(case, mesh)
    loss = found._backward(batch(1, case, mesh))
    found._gradients()
    slices = [
        replace(part.held, tensor=grad)
        for part in found.parts
        if (grad := part.local.grad) is not None
    ]
    return {"loss": mesh.total(loss).item() / mesh.tensor, "grads": dict(whole(slices, mesh))}


def training(case: Case, mesh: Mesh) -> Found:
    """Give the losses of some steps, gradient norms, a validation loss, and the last weights."""
    found = trainer(case, mesh)
    steps = [
        found.step(n, batch(n % 5, case, mesh), flags=[mesh.rank == mesh.size - 1])
        for n in range(1, case.steps + 1)
    ]
    validation = found.evaluate(next(_whole_batch(9, case).split(3)))
    return {
        "losses": [step.loss for step in steps],
        "norms": [step.grad_norm for step in steps],
        "flags": {step.flags for step in steps},
        "validation": validation,
        "state": dict(whole(found.slices(), mesh)),
        "cover": covered(list(found.slices())),
    }


def covered(slices: list[Slice]) -> dict[str, tuple[Any, ...]]:
    """Name this rank's rectangles."""
    return {x.name: (x.shape, x.offset, tuple(x.tensor.shape), x.owner) for x in slices}


def in_world(case: Case, rank: int, port: int, attempt: int) -> Found:
    """Join the world of a case as one of its ranks; the store is at `port`, as torchrun's is."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(case.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT=str(attempt),
    )
    with joined("cpu", tensor=case.tensor, replicas=case.replicas) as mesh:
        return (training if case.steps else gradients)(case, mesh)


def work(rank: int, cases: dict[str, Case], port: int, folder: Path) -> None:
    """Go through the cases in one of the processes."""
    torch.set_num_threads(1)
    compiler = torch.compile
    for attempt, (name, case) in enumerate(cases.items()):
        if rank >= case.ranks:
            continue
        torch.compile = functools.partial(compiler, backend=case.compile)  # type: ignore[assignment]
        torch._dynamo.reset()
        warnings.resetwarnings()
        if not case.compile:  # the compiler warns itself
            warnings.simplefilter("error")
        try:
            torch.save(in_world(case, rank, port, attempt), folder / f"{name}-{rank}")
        except Exception:
            (folder / f"failed-{rank}").write_text(f"{name}: {traceback.format_exc()}")
            return  # the others wait for this process, and end with it


def run_cases(cases: dict[str, Case], folder: Path, preload: str) -> Callable[[str], list[Found]]:
    """Run all cases in four processes; give what the ranks of each found."""
    set_forkserver_preload([preload])  # so that torch is imported once, not four times
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start_processes(work, (cases, store.port, folder), nprocs=WORLD, start_method="forkserver")

    failed = [path.read_text() for path in sorted(folder.glob("failed-*"))]
    assert not failed, "\n".join(failed)

    def load(name: str) -> list[Found]:
        paths = [folder / f"{name}-{rank}" for rank in range(cases[name].ranks)]
        return [torch.load(path, weights_only=False) for path in paths]

    return load


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """Name the tensor with the largest relative error."""
    assert found.keys() == expected.keys()
    return max((((found[name] - x).norm() / x.norm()).item(), name) for name, x in expected.items())


def whole(slices: Iterable[Slice], mesh: Mesh) -> Iterator[tuple[str, Tensor]]:
    """Yield whole tensors, on the CPU of the first rank; the others send theirs and get nothing.

    Every rank must go through all of it.
    """
    found = list(slices)
    if mesh.size == 1:
        yield from ((held.name, held.tensor.cpu().contiguous()) for held in found)
        return
    places: list[Any] = [None] * mesh.size
    dist.all_gather_object(places, [(held.offset, _sent(held)) for held in found])
    for number, held in enumerate(found):
        if mesh.first:
            yield held.name, _assembled(held, [place[number] for place in places])
        elif _sent(held) is not None:
            dist.send(held.tensor.contiguous(), 0)


def _sent(held: Slice) -> tuple[int, ...] | None:
    """Give the shape of what a rank has to send."""
    return tuple(held.tensor.shape) if held.owner and held.tensor.numel() else None


def _assembled(
    own: Slice, places: Sequence[tuple[tuple[int, ...], tuple[int, ...] | None]]
) -> Tensor:
    target = torch.empty(own.shape, dtype=own.tensor.dtype)
    for rank, (offset, shape) in enumerate(places):
        if shape is None:
            continue
        part = own.tensor
        if rank:
            part = torch.empty(shape, dtype=part.dtype, device=part.device)
            dist.recv(part, rank)
        target[tuple(slice(at, at + length) for at, length in zip(offset, shape, strict=True))] = (
            part
        )
    return target
