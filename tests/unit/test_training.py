"""The arithmetic of a step: schedule, loss, optimizer, and their sum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from llama_cli.model.config import SIZES, Activations
from llama_cli.model.transformer import Transformer
from llama_cli.training import loss as loss_module
from llama_cli.training.data import Sequences
from llama_cli.training.loop import Trainer
from llama_cli.training.loss import head_loss
from llama_cli.training.optimizer import MOMENTS, clip
from llama_cli.training.schedule import learning_rate
from llama_cli.training.settings import RECIPES, Settings, default_batch, default_warmup
from llama_cli.training.speed import peak_flops, published_peak
from tests.unit.training import CONFIG, SETTINGS, trainer, weights, write_sequences


def paper_rate(step: int) -> float:
    return learning_rate(step, steps=334_000, warmup=2000, peak=1.5e-4)


def test_the_rate_rises_in_a_line_to_its_peak_at_the_end_of_the_warm_up() -> None:
    assert paper_rate(1) == pytest.approx(1.5e-4 / 2000)
    assert paper_rate(1000) == pytest.approx(0.75e-4)
    assert paper_rate(2000) == 1.5e-4


def test_the_warm_up_rises_in_a_line_from_the_share_of_the_peak_that_it_is_given() -> None:
    rates = [learning_rate(n, steps=99, warmup=4, peak=2.0, start=0.1) for n in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.65, 1.1, 1.55, 2.0])
    flat = [learning_rate(n, steps=99, warmup=4, peak=2.0, start=1.0) for n in (1, 4)]
    assert flat == [2.0, 2.0]


def test_the_last_rate_is_a_tenth_of_the_peak() -> None:
    assert paper_rate(334_000) == pytest.approx(1.5e-5)


def test_half_way_the_cosine_is_at_the_mean_of_peak_and_tenth() -> None:
    assert paper_rate(168_000) == pytest.approx(0.55 * 1.5e-4)


def test_a_run_without_warm_up_begins_below_its_peak_only_by_the_cosine() -> None:
    assert learning_rate(1, steps=1, warmup=0, peak=1.0) == pytest.approx(0.1)


def test_every_size_has_its_row_of_table_2() -> None:
    assert set(RECIPES) == set(SIZES)
    assert (RECIPES["7b"].lr, RECIPES["65b"].lr) == (3.0e-4, 1.5e-4)
    assert (RECIPES["13b"].tokens, RECIPES["33b"].tokens) == (10**12, 14 * 10**11)


def test_the_papers_batch_is_2048_sequences_of_2048() -> None:
    assert default_batch("7b", 2048) == 2048
    assert default_batch("3m", 10**6) == 1


def test_the_warm_up_is_the_papers_or_a_quarter_of_a_short_run() -> None:
    assert [default_warmup(steps) for steps in (1, 100, 8000, 8004)] == [1, 25, 2000, 2000]


@pytest.mark.parametrize("tokens", [1, 4, 5, 9])
def test_the_loss_of_the_head_is_cross_entropy_with_its_gradients(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "ROWS", 4)
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 30, (tokens,), generator=draw)
    x, w = (torch.randn(n, 6, generator=draw, requires_grad=True) for n in (tokens, 30))
    ours, theirs = head_loss(x, w, targets) * 3, cross_entropy(x @ w.t(), targets) * 3
    grads = zip(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(theirs, (x, w)), strict=True)
    assert torch.allclose(ours, theirs)
    assert all(torch.allclose(mine, other, atol=1e-6) for mine, other in grads)


def test_logits_of_hundreds_do_not_overflow_the_loss() -> None:
    x = torch.tensor([[500.0]], requires_grad=True)
    assert head_loss(x, torch.tensor([[1.0], [-1.0]]), torch.tensor([0])).item() == 0.0


def test_a_loss_has_one_backward() -> None:
    x, w = torch.ones(2, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    loss = head_loss(x, w, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward"):
        loss.backward()


def test_the_gradient_of_the_head_is_made_in_the_memory_it_is_given() -> None:
    x, w = torch.ones(2, 3), torch.arange(12.0).view(4, 3).requires_grad_()
    targets, spare = torch.tensor([0, 1]), [torch.full((4, 3), torch.nan)]
    (fresh,) = torch.autograd.grad(head_loss(x, w, targets), w)
    address = spare[0].data_ptr()
    (again,) = torch.autograd.grad(head_loss(x, w, targets, spare=spare), w)
    assert torch.equal(again, fresh)
    assert again.data_ptr() == address
    assert not spare


@pytest.mark.parametrize("norm", [0.5, 7.0])
def test_a_step_clips_as_a_pass_of_its_own_would(norm: float) -> None:
    draw = torch.Generator().manual_seed(0)
    gradient = torch.randn(1000, generator=draw)
    gradient *= norm / gradient.norm()
    one, two = (torch.nn.Parameter(torch.ones(1000)) for _ in range(2))
    ours, theirs = (torch.optim.AdamW([w], lr=1e-2, fused=True) for w in (one, two))
    one.grad, two.grad = gradient.clone(), gradient.clone()
    clip(ours, gradient.norm())
    torch.nn.utils.clip_grad_norm_([two], 1.0)
    ours.step()
    theirs.step()
    for moment in MOMENTS:
        assert torch.allclose(ours.state[one][moment], theirs.state[two][moment], atol=0)
    assert torch.allclose(one, two, atol=0)


def test_norms_do_not_decay_and_matrices_do() -> None:
    decay = {g["weight_decay"]: len(g["params"]) for g in trainer().optimizer.param_groups}
    assert decay == {0.1: 2 * 7 + 2, 0.0: 2 * 2 + 1}


def test_the_optimizer_has_the_papers_constants() -> None:
    assert trainer().optimizer.defaults["betas"] == (0.9, 0.95)


def test_training_on_a_pattern_learns_it(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    one = trainer(Settings(steps=60, batch=20, lr=1e-2, warmup=5))
    before = one.evaluate(data.batch(1, 20))
    losses = [one.step(n, data.batch(n, 20)).loss for n in range(1, 61)]
    assert losses[0] == pytest.approx(before, abs=1e-5)
    assert before > 3.5 > 1.0 > losses[-1]


@pytest.mark.parametrize("activations", ["keep", "linear", "full"])
@pytest.mark.parametrize("later", [{"tied": True}, {"heads": 4, "kv_heads": 2}])
def test_a_tied_model_and_one_of_grouped_heads_learn_it_too(
    tmp_path: Path, later: dict[str, Any], activations: Activations
) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    config = replace(CONFIG, **later)
    with torch.device("meta"):  # as a run makes it
        model = Transformer(config, activations=activations)
    one = Trainer(model, Settings(steps=60, batch=20, lr=1e-2, warmup=5))
    one.begin()
    losses = [one.step(n, data.batch(n, 20)).loss for n in range(1, 61)]
    assert losses[-1] < 1.0 < 3.5 < losses[0]
    assert sum(part.local.numel() for part in one.parts) == config.parameters
    assert torch.equal(model.output.weight, model.tok_embeddings.weight) == config.tied


def test_the_first_update_is_as_large_as_the_rate(tmp_path: Path) -> None:
    one, data = trainer(), Sequences(write_sequences(tmp_path / "d"))
    before = weights(one)["layers.0.attention.wq.weight"]
    step = one.step(1, data.batch(1, 4))
    moved = (weights(one)["layers.0.attention.wq.weight"] - before).abs().max()
    assert step.lr == 0.5e-2  # half of the warm-up
    assert moved.item() == pytest.approx(step.lr, rel=0.05)  # Adam's first step has this size


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    whole, parts = trainer(), trainer(micro_batch=3)  # 3 and 1 of 4
    one, other = whole.step(1, data.batch(1, 4)), parts.step(1, data.batch(1, 4))
    assert one.loss == pytest.approx(other.loss, abs=1e-6)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-5)


def test_bf16_products_leave_weights_and_loss_in_fp32(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    settings = Settings(**{**SETTINGS.to_json(), "dtype": "bf16"})
    half, full = trainer(settings), trainer()
    loss = half.step(1, data.batch(1, 4)).loss
    assert loss == pytest.approx(full.step(1, data.batch(1, 4)).loss, abs=0.02)
    assert {weight.dtype for weight in weights(half).values()} == {torch.float32}
    assert half.evaluate(data.rows(range(2))) > 0


def test_what_is_copied_slice_by_slice_goes_on_the_same(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    one, other = trainer(), trainer()
    one.step(1, data.batch(1, 4))
    for mine, theirs in zip(one.slices(), other.slices(), strict=True):
        theirs.tensor.copy_(mine.tensor)
    other.continue_after(1)
    for found in (one, other):
        found.step(2, data.batch(2, 4))
    assert all(torch.equal(w, weights(other)[name]) for name, w in weights(one).items())


def test_a_gpus_peak_is_that_of_dense_arithmetic() -> None:
    assert published_peak("NVIDIA A100-SXM4-80GB", "bf16") == 312e12  # 624e12 is with sparsity
    assert published_peak("NVIDIA A100-SXM4-80GB", "fp32") == 19.5e12
    assert published_peak("GeForce 256", "bf16") is None
    assert published_peak("NVIDIA L40", "bf16") is None  # no L4, whose name it begins with


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_cpus_peak_is_measured(dtype: str) -> None:
    ticks = iter(range(100))
    peak, source = peak_flops(torch.device("cpu"), dtype, lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert peak == 2 * 1024**3 * torch.get_num_threads()  # a product a processor's second
    assert "matrix products" in source
