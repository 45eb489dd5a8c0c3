"""One rank of a layout on tensors without memory, beside what the plan has by arithmetic."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_cli.model.config import SIZES, Activations
from llama_cli.parallel.gpus import machines
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.memory import need
from llama_cli.training import rehearsal
from llama_cli.training.rehearsal import beside_plan, rehearse

SHALLOW = {size: replace(SIZES[size], layers=3, context=512) for size in ("7b", "33b")}


def rows(size: str, layout: Layout) -> dict[str, tuple[float, float]]:
    config, cluster = SHALLOW[size], machines("a100-80gb", layout.gpus)
    found = beside_plan(config, layout, cluster, rehearse(config, layout))
    return {name: (planned, counted) for name, planned, counted in found}


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        ("7b", Layout(1, 1, 2, 1, "linear", False)),
        ("7b", Layout(1, 2, 1, 1, "linear", False)),
        ("7b", Layout(8, 1, 1, 1, "linear", True)),
        ("7b", Layout(8, 1, 1, 1, "full", False)),
        ("7b", Layout(64, 4, 2, 1, "full", True)),
        ("7b", Layout(64, 4, 1, 1, "keep", False)),
        ("7b", Layout(32, 2, 1, 1, "linear", True, replicas=8)),
        ("33b", Layout(512, 4, 4, 1, "linear", False)),  # whose rows do not divide by 512
        ("33b", Layout(2048, 1, 1, 1, "full", True)),
    ],
    ids=str,
)
def test_what_a_rank_holds_and_sends_is_what_was_planned(size: str, layout: Layout) -> None:
    found = rows(size, layout)
    assert found["parameters"][0] == found["parameters"][1]
    assert ("activations" in found) == (layout.activations != "keep")
    for planned, counted in found.values():
        assert counted == pytest.approx(planned, rel=1e-3)


def test_nothing_but_what_is_planned_is_sent() -> None:
    layout = Layout(16, 2, 1, 1, "linear", True, replicas=4)
    counted = rehearse(SHALLOW["7b"], layout)
    named = {f"sent: {kind} over {axis}" for axis, kind in counted.sent}
    small = "sent: sum over tensor"  # of the head's numbers a token, and of norms' gradients
    assert named - {small} <= set(rows("7b", layout))
    assert counted.sent["tensor", "sum"] < 1e-3 * sum(counted.sent.values())


def test_the_process_group_is_gone_afterwards_whatever_happens() -> None:
    rehearse(SHALLOW["7b"], Layout(4, 2, 1, 1, "full", True))
    assert not dist.is_initialized()
    with pytest.raises(RuntimeError):  # 32 heads
        rehearse(SHALLOW["7b"], Layout(4, 3, 1, 1, "full", True))
    assert not dist.is_initialized()


def test_no_memory_is_taken() -> None:
    before = torch.get_num_threads()  # the run takes no thread setting along either
    counted = rehearse(SIZES["7b"], Layout(1, 1, 1, 1, "full", False))
    assert counted.states == 16 * SIZES["7b"].parameters  # 108 GB
    assert torch.get_num_threads() == before


@pytest.mark.slow  # a rank of the whole model: 60 layers, each cut for 512 ranks
def test_a_rank_of_2048_of_the_33b_runs_within_a_minute() -> None:
    config, layout = SIZES["33b"], Layout(512, 4, 4, 1, "linear", False)
    start = time.process_time()
    counted = rehearse(config, layout)
    assert time.process_time() - start < 60
    for _, planned, found in beside_plan(config, layout, machines("a100-80gb", 2048), counted):
        assert found == pytest.approx(planned, rel=1e-3)


class Live(TorchDispatchMode):
    """The most bytes that are there at once, looked at whenever something large is done."""

    LARGE = ("mm", "addmm", "_allgather_base_", "_reduce_scatter_base_", "all_gather_into_tensor")

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, StorageWeakRef] = {}
        self.peak = 0

    def see(self, *found: Tensor) -> None:
        for tensor in found:
            storage = tensor.untyped_storage()
            known = self.storages.get(storage._cdata)
            if known is None or known.expired():
                self.storages[storage._cdata] = StorageWeakRef(storage)

    def look(self) -> None:
        self.storages = {k: ref for k, ref in self.storages.items() if not ref.expired()}
        there = (torch.UntypedStorage._new_with_weak_ptr(r.cdata) for r in self.storages.values())
        self.peak = max(self.peak, sum(storage.nbytes() for storage in there if storage))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        self.see(*(x for x in leaves if isinstance(x, Tensor) and not isinstance(x, DTensor)))
        if func.overloadpacket.__name__ in self.LARGE:
            self.look()
        return out


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Live:
    """Look at a rehearsal from before its weights are used."""
    found, plain = Live(), rehearsal._Rehearsed.rehearse

    def watched(self: Any, *args: Any) -> Any:
        for part in self.parts:
            state = self.optimizer.state.get(part.local, {})
            found.see(part.local, *(state[name] for name in rehearsal.MOMENTS if state))
        with found:
            return plain(self, *args)

    monkeypatch.setattr(rehearsal._Rehearsed, "rehearse", watched)
    monkeypatch.setattr(rehearsal, "_Kept", Silent)  # it holds what it counts
    return found


class Silent:
    size = 0

    def __init__(self, _: Any) -> None: ...

    def pack(self, tensor: Tensor) -> Tensor:
        return tensor


@pytest.mark.parametrize(
    ("data", "tensor", "micro_batch", "activations", "reshard"),
    [
        (8, 1, 2, "linear", True),
        (8, 1, 2, "linear", False),
        (4, 2, 4, "full", True),
        (64, 4, 8, "linear", True),
        (64, 4, 8, "full", False),
    ],
)
def test_the_peak_is_the_planned_one_and_not_above(
    live: Live, data: int, tensor: int, micro_batch: int, activations: Activations, reshard: bool
) -> None:
    config = replace(SIZES["7b"], layers=8)
    layout = Layout(data, tensor, micro_batch, 1, activations, reshard)
    rehearse(config, layout)
    planned = need(config, layout, machines("a100-80gb", layout.gpus)).peak
    assert live.peak <= 1.02 * planned
    assert live.peak == pytest.approx(planned, rel=0.1)  # on a CPU messages go sooner
