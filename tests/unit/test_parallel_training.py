"""Training is the same on any mesh: every parameter's gradient, and the losses of 50 steps.

Data parallel (FSDP2), replicas (HSDP), tensor with sequence parallelism, their product, what a
layer keeps, compiled or not, beside one process and PyTorch's own cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import prod

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.parallel.mesh import ONE, Mesh
from tests.unit.worlds import BATCH, CONFIG, Case, Found, batch, run_cases, training, worst

pytestmark = pytest.mark.timeout(300)  # four processes on two cores; two minutes alone

MESHES = {
    "data-4": Case(),
    "data-3": Case(ranks=3),  # which does not divide the batch of 8, nor all rows
    "replicas-2": Case(replicas=2),
    "tensor-2": Case(ranks=2, tensor=2),
    "tensor-4": Case(tensor=4),
    "data-2-tensor-2": Case(tensor=2),
}
KINDS = ("keep", "linear", "full")


def cases() -> dict[str, Case]:
    """Name what the worlds go through."""
    found: dict[str, Case] = {}
    for (name, case), kind in product(MESHES.items(), KINDS):
        found[f"{name}-{kind}"] = Case(**{**vars(case), "activations": kind, "double": True})
        steps = {"activations": kind, "steps": 50}
        found[f"{name}-{kind}-50"] = Case(**{**vars(case), **steps})
    for name in ("data-4", "data-2-tensor-2"):
        case = {**vars(MESHES[name]), "double": True}
        found[f"{name}-micro"] = Case(**{**case, "micro_batch": 1})
        found[f"{name}-unsharded"] = Case(**{**case, "reshard": False, "micro_batch": 1})
        found[f"{name}-masked"] = Case(**{**case, "masked": True, "micro_batch": 1})
        found[f"{name}-grouped"] = Case(**{**case, "activations": "linear", "kv_heads": 2})
        found[f"{name}-bf16"] = Case(**{**vars(MESHES[name]), "dtype": "bf16", "steps": 10})
        for kind in KINDS:
            compiled = {"activations": kind, "compile": "aot_eager"}
            found[f"{name}-{kind}-compiled"] = Case(**{**case, **compiled})
    return found


CASES = cases()
GRADIENTS = [name for name, case in CASES.items() if not case.steps]
Ran = Callable[[str], list[Found]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run all cases, once."""
    return run_cases(CASES, tmp_path_factory.mktemp("worlds"), __name__)


def eager(case: Case) -> tuple[float, dict[str, Tensor]]:
    """Give loss and gradients by PyTorch alone, on one process in fp64."""
    model = Transformer(replace(CONFIG, kv_heads=case.kv_heads))
    init_weights(model, 0)
    model.double()
    found = batch(1, case)
    logits = model(found.tokens[:, :-1], bounds=found.bounds)
    loss = cross_entropy(logits.flatten(0, 1), found.targets.flatten(), ignore_index=-1)
    loss.backward()
    return loss.item(), {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("name", GRADIENTS)
def test_every_gradient_is_that_of_one_process(ran: Ran, name: str) -> None:
    found, (loss, grads) = ran(name)[0], eager(CASES[name])
    assert found["loss"] == pytest.approx(loss, rel=1e-12)
    error, where = worst(found["grads"], grads)
    assert error < 1e-10, where


@pytest.fixture(scope="module")
def alone() -> Found:
    torch.set_num_threads(1)
    return training(Case(ranks=1, steps=50), ONE)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-50")])
def test_fifty_steps_have_the_losses_of_one_process(ran: Ran, alone: Found, name: str) -> None:
    for found in ran(name):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert found["norms"] == pytest.approx(alone["norms"], rel=1e-3)
        assert found["validation"] == pytest.approx(alone["validation"], rel=1e-5)
    assert alone["losses"][-1] < 0.75 * alone["losses"][0]


def test_every_rank_says_the_same_of_each_step(ran: Ran) -> None:
    for name in ("data-4-keep-50", "data-2-tensor-2-linear-50", "replicas-2-full-50"):
        one, *others = ran(name)
        assert all(other["losses"] == one["losses"] for other in others)
        assert all(other["norms"] == one["norms"] for other in others)
        assert all(other["validation"] == one["validation"] for other in others)
        assert one["flags"] == {(True,)}  # which the last rank alone raises


@pytest.mark.parametrize("name", ["data-4-bf16", "data-2-tensor-2-bf16"])
def test_bf16_weights_travel_and_fp32_weights_are_kept(ran: Ran, name: str) -> None:
    half = training(Case(ranks=1, dtype="bf16", steps=10), ONE)
    found = ran(name)[0]
    assert found["losses"] == pytest.approx(half["losses"], rel=1e-2)
    assert {x.dtype for x in found["state"].values()} == {torch.float32}
    weight = found["state"]["layers.0.attention.wq.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize("name", [f"{name}-keep-50" for name in MESHES])
def test_the_owners_slices_make_up_each_tensor_exactly_once(ran: Ran, name: str) -> None:
    found = ran(name)
    for tensor in found[0]["cover"]:
        covers = torch.zeros(found[0]["cover"][tensor][0])
        for rank in found:
            shape, offset, part, owner = rank["cover"][tensor]
            where = tuple(slice(at, at + n) for at, n in zip(offset, part, strict=True))
            covers[where] += owner
            assert prod(part) < prod(shape) or "norm" in tensor
        assert bool((covers == 1).all()), tensor


@pytest.mark.parametrize("name", [f"{name}-keep-50" for name in MESHES])
def test_slices_put_together_are_the_state_of_one_process(
    ran: Ran, alone: Found, name: str
) -> None:
    state = ran(name)[0]["state"]
    assert list(state) == list(alone["state"])
    assert worst(state, alone["state"])[0] < 1e-3


def test_a_batch_is_dealt_out_whole() -> None:
    rows = [Mesh(data=4, tensor=2, rank=rank).rows(BATCH) for rank in range(8)]
    assert [list(each) for each in rows[::2]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert rows[::2] == rows[1::2]
    uneven = [Mesh(data=3, rank=rank).rows(BATCH) for rank in range(3)]
    assert [row for each in uneven for row in each] == list(range(BATCH))
