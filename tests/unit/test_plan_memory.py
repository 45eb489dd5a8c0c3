"""The memory of a layout against the paper's arithmetic, and against what autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Transformer
from llama_cli.parallel import fsdp, memory
from llama_cli.parallel.gpus import machines
from llama_cli.parallel.layout import Layout
from llama_cli.parallel.memory import activations, need
from llama_cli.parallel.tensor import exchange, split
from llama_cli.training import loss
from llama_cli.training.rehearsal import _group

A100 = "a100-80gb"


@pytest.mark.parametrize(
    ("policy", "widths"), [("keep", 35), ("linear", 23), ("full", 2)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("size", ["7b", "13b", "33b", "65b"])
def test_each_policy_keeps_no_more_than_it_should(size: str, policy: Any, widths: int) -> None:
    config = SIZES[size]
    found = activations(config, Layout(1, 1, 1, 1, policy, False))
    table = 4 * config.context * config.head_dim
    a_token = (found - table) / config.layers / config.context / config.dim
    assert widths - 3 < a_token <= widths


def test_tensor_ranks_share_the_activations_but_for_what_they_gather() -> None:
    config = replace(SIZES["65b"], context=8)
    table = 4 * config.context * config.head_dim

    def kept(tensor: int, policy: Any) -> float:
        layout = Layout(1, tensor, 1, 1, policy, False)
        return activations(config, layout) - table

    assert kept(8, "linear") == kept(1, "linear") / 8
    assert kept(8, "full") == kept(1, "full") / 8
    whole = 4 * config.layers * config.context * config.dim  # two bf16 inputs
    assert kept(8, "keep") - whole == pytest.approx((kept(1, "keep") - whole) / 8)


def test_a_part_of_the_state_is_16_bytes_a_parameter() -> None:
    config = SIZES["65b"]
    found = need(config, Layout(256, 8, 8, 1, "linear", False), machines(A100, 2048))
    state = found.weights + found.gradients + found.optimizer
    assert state == pytest.approx(16 * config.parameters / 2048, rel=0.02)  # rows are dealt whole
    assert found.half_weights == pytest.approx(2 * config.parameters / 8, rel=1e-3)


def test_gradients_come_as_activations_go_unless_there_are_more_passes() -> None:
    config, cluster = SIZES["7b"], machines(A100, 8)
    once = need(config, Layout(8, 1, 1, 1, "linear", True), cluster)
    again = need(config, Layout(8, 1, 1, 2, "linear", True), cluster)
    assert once.gradients < once.activations
    assert again.peak - once.peak == once.gradients


def test_gradients_wait_whole_between_passes_where_there_is_room() -> None:
    config = SIZES["7b"]
    narrow = need(config, Layout(2, 4, 1, 8, "linear", True), machines(A100, 8))
    wide = need(config, Layout(8, 1, 1, 8, "linear", True), machines(A100, 8))
    assert narrow.gradients == pytest.approx(4 * config.parameters * (1 / 4 + 1 / 8), rel=1e-3)
    assert wide.gradients == 4 * config.parameters / 8  # 27 GB whole is too much


def test_what_other_files_decide_is_the_same_there() -> None:
    assert (memory.ROOM, memory.GRADIENT) == (fsdp.ROOM, fsdp.GRADIENT)
    assert memory.LOGIT_ROWS == loss.ROWS


@pytest.mark.slow  # a layer is compiled, twenty seconds and more where there is no cache
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("tensor", [1, 2])
def test_keep_is_planned_as_what_torch_compile_keeps(tensor: int) -> None:
    config = ModelConfig(dim=512, layers=1, heads=4, hidden=1536, vocab_size=64, context=64)
    layout = Layout(1, tensor, 2, 1, "keep", False)
    with _group(layout) as mesh:
        with torch.device("meta"):
            model = Transformer(config, activations="keep", exchange=exchange(mesh))
        split(model, mesh)
        layer = model.to_empty(device="cpu").to(torch.bfloat16).layers[0]
        table = rotary_table(0, 64, config.head_dim, config.rope_theta, torch.device("cpu"))
        x = torch.randn(2, 64 // tensor, 512, dtype=torch.bfloat16, requires_grad=True)
        kept = _kept(torch.compile(layer), x, table, [*layer.parameters()])
    planned = activations(config, layout) - 4 * config.context * config.head_dim
    assert kept == pytest.approx(planned, rel=0.05)


def _kept(layer: Any, x: Tensor, table: tuple[Tensor, ...], weights: list[Tensor]) -> int:
    """Count the bytes that autograd keeps, weights and table apart."""
    plain = [w.to_local() if hasattr(w, "to_local") else w for w in weights]
    known = {tensor.untyped_storage()._cdata for tensor in (*plain, *table)}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, table)
    return sum(found.values())
