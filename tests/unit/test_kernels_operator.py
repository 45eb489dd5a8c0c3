"""The attention operator in what PyTorch does with operators, run by the emulated kernel.

What the kernel computes is `test_kernels_emulated`'s matter, and processes that share a model
`test_kernels_parallel`'s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

from llama_cli.errors import NotReadyError
from llama_cli.kernels import attention, extension, proof, sharding
from llama_cli.kernels.documents import document_bounds
from llama_cli.kernels.library import Library
from llama_cli.model.config import ModelConfig
from llama_cli.model.rotary import rotary_table
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.training.job import Way
from llama_cli.training.log import read_log
from llama_cli.training.loop import Trainer
from llama_cli.training.run import train
from llama_cli.training.settings import Settings
from tests.kernels import inputs, results, same_bits
from tests.unit.training import Ear, job

OPERATOR = torch.ops.llama.causal_attention.default
BATCH, LENGTH, VOCAB = 2, 70, 50  # more than a tile of 64
SMALL = ModelConfig(dim=128, layers=2, heads=2, hidden=64, vocab_size=VOCAB, context=LENGTH)


@pytest.fixture(autouse=True)
def untried(emulated: Library) -> Iterator[None]:
    """Run the emulated kernel, and forget at the end that `auto` tried it."""
    proof.fault.cache_clear()
    yield
    proof.fault.cache_clear()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each call of the library: forward, backward, or backward by atomics."""
    noted, run = [], extension.run

    def note(direction: str, q: Tensor, tensors: dict[str, Tensor | None]) -> None:
        by_atomics = tensors.get("sums") is not None
        noted.append(direction + (" by atomics" if by_atomics else ""))
        run(direction, q, tensors)

    monkeypatch.setattr(extension, "run", note)
    return noted


given = partial(inputs, length=3, size=64, dtype=torch.bfloat16)  # q, k, v, gradient of out


def packed(length: int = 3) -> Tensor:
    """Make bounds of a document of 1 position, and others."""
    return document_bounds(torch.tensor([0, 1, length, 2 * length]), BATCH, length)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key_heads", [1, 2])
@pytest.mark.parametrize("bounds", [None, packed()], ids=["whole", "packed"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_operator_keeps_what_torch_asks_of_one(dtype, key_heads, bounds, deterministic) -> None:
    q, k, v, _ = given(key_heads=key_heads, dtype=dtype)
    leaves = tuple(x.requires_grad_() for x in (q, k, v))
    torch.library.opcheck(OPERATOR, (*leaves, bounds, deterministic))


def test_the_backward_operator_keeps_it_too() -> None:
    q, k, v, grad_out = given(key_heads=1)
    for bounds in (None, packed()):
        out, lse = extension.forward(q, k, v, bounds, True)
        arguments = (q, k, v, out, lse, grad_out, bounds)
        for deterministic in (True, False):
            backward = torch.ops.llama.causal_attention_backward.default
            torch.library.opcheck(backward, (*arguments, deterministic))


def test_only_a_backward_that_may_use_atomics_is_given_room_for_them(launches) -> None:
    for deterministic in (True, False):
        q, k, v, grad_out = given()
        out = extension.causal_attention(q.requires_grad_(), k, v, deterministic=deterministic)
        out.backward(grad_out)
    assert launches == ["forward", "backward", "forward", "backward by atomics"]


def test_the_results_lie_as_a_model_multiplies_them_next() -> None:
    q, k, v, _ = given()
    assert extension.causal_attention(q, k, v).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("asked", [None, "cuda"])
def test_auto_and_cuda_are_this_kernel(launches, monkeypatch, asked: str | None) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    q, k, v, _ = given(key_heads=1)
    found = attention.causal_attention(q, k, v, bounds=packed(), asked=asked)
    assert launches[-1] == "forward"
    assert torch.equal(found, extension.causal_attention(q, k, v, bounds=packed()))


@pytest.mark.parametrize("packing", [False, True])
def test_a_compiled_function_calls_it_without_a_break(packing: bool) -> None:
    bounds = packed() if packing else None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention.causal_attention(q, k, v, bounds=bounds)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for length, size in ((3, 64), (3, 128)):  # the second makes the head size a symbol
        tensors = given(key_heads=1, length=length, size=size)
        assert same_bits(results(compiled, *tensors), results(attend, *tensors))


def model(attention: str | None, seed: int = 0) -> Transformer:
    made = Transformer(SMALL, attention=attention)
    init_weights(made, seed)
    return made


def sequences(count: int = BATCH) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(VOCAB, (count, LENGTH + 1), generator=draw)


def gradients(model: Transformer, states: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the gradients of the loss, with bf16 products."""
    model.zero_grad()
    tokens = sequences()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.output(states(tokens[:, :-1]))
        cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
    return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare to bf16: PyTorch multiplies by other routines where it compiles or records."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert (found[name] - x).norm() <= 2**-6 * x.norm(), name


def test_a_whole_model_is_compiled_without_a_break() -> None:
    made = model("cuda")
    expected = gradients(made, made.states)
    compiled = torch.compile(made.states, fullgraph=True, backend="aot_eager")
    assert_close(gradients(made, compiled), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own
def test_inductor_hands_it_what_it_takes() -> None:
    """One layer's attention: a whole model takes g++ half a minute."""
    layer = model("cuda").layers[0].attention.bfloat16()
    table = rotary_table(0, LENGTH, SMALL.head_dim, SMALL.rope_theta, torch.device("cpu"))
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, LENGTH, SMALL.dim, generator=draw).bfloat16().requires_grad_()
    found = {}
    for name, attend in (("eager", layer), ("inductor", torch.compile(layer, fullgraph=True))):
        out = attend(x, table)
        found[name] = dict(zip("oxq", [out, *grads_of(out, x, layer.wq.weight)], strict=True))
    assert_close(found["inductor"], found["eager"])


def grads_of(out: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def save_attention(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    if operator == OPERATOR:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


CHECKPOINTS = pytest.mark.parametrize(
    ("options", "forwards"),
    [
        ({}, 2),
        ({"context_fn": lambda: create_selective_checkpoint_contexts(save_attention)}, 1),
    ],
    ids=["full", "selective"],
)


@CHECKPOINTS
def test_activation_checkpoints_recompute_it_unless_told_to_save_it(
    launches, options: dict[str, Any], forwards: int
) -> None:
    made = model("cuda")
    expected = gradients(made, made.states)
    assert launches == ["forward"] * 2 + ["backward"] * 2
    launches.clear()

    def states(tokens: Tensor) -> Tensor:
        table = rotary_table(0, LENGTH, SMALL.head_dim, SMALL.rope_theta, tokens.device)
        x = made.tok_embeddings(tokens)
        for layer in made.layers:
            x = checkpoint(layer, x, table, use_reentrant=False, **options)
        return made.norm(x)

    assert_close(gradients(made, states), expected)
    assert launches.count("forward") == 2 * forwards  # layers
    assert launches.count("backward") == 2


@CHECKPOINTS
def test_the_first_call_of_all_may_be_within_a_checkpoint(monkeypatch, options, forwards) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)

    def attend(*tensors: Tensor) -> Tensor:
        return checkpoint(attention.causal_attention, *tensors, use_reentrant=False, **options)

    assert same_bits(results(attend, *given()), results(extension.causal_attention, *given()))


def test_the_trial_is_not_counted_and_needs_no_default_device(monkeypatch) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    q, k, v, _ = given()
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        attention.causal_attention(q, k, v)
    assert counter.get_total_flops() == extension.forward_flops(q.shape)


@CHECKPOINTS
def test_recomputed_or_saved_the_gradients_are_the_same_bits(launches, options, forwards) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned = (x.flip(2) for x in (q, k, v))  # something to recompute
        return extension.causal_attention(*(x.flip(2).contiguous() for x in turned))

    def attend_again(*tensors: Tensor) -> Tensor:
        return checkpoint(attend, *tensors, use_reentrant=False, **options)

    expected = results(attend, *given(length=70))
    launches.clear()
    assert same_bits(results(attend_again, *given(length=70)), expected)
    assert launches == ["forward"] * forwards + ["backward"]


def test_flops_are_those_of_the_half_that_the_mask_leaves() -> None:
    q, k, v, grad_out = given(heads=4, key_heads=2, length=70)
    with FlopCounterMode(display=False) as counter:
        out = extension.causal_attention(q.requires_grad_(), k, v)
        forward = counter.get_total_flops()
        out.backward(grad_out)
    assert forward == 4 * 70**2 * 64 * 4 * BATCH // 2
    assert counter.get_total_flops() == forward + forward * 5 // 2


def test_sharding_rules_wait_for_whoever_needs_them(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, sharding.MODULE, raising=False)
    monkeypatch.setattr(sharding, "_registered", False)
    sharding.register()
    assert sharding.MODULE not in sys.modules
    assert not sharding._registered


@pytest.mark.parametrize(
    ("mesh", "size", "even"),
    [
        ((2,), 4, True),
        ((2,), 3, False),
        ((4,), 2, True),  # more devices than heads: DTensor itself refuses
        ((2, 2), 2, True),
        ((2, 2), 6, False),  # even over either axis, not over both
        ((1, 4), 6, False),
    ],
)
def test_heads_are_sharded_where_every_device_gets_as_many(mesh, size: int, even: bool) -> None:
    assert sharding._even(SimpleNamespace(shape=mesh), size) == even


def test_both_operators_are_sharded_by_batches_and_by_heads() -> None:
    mesh = SimpleNamespace(shape=(2,))
    q, k = (SimpleNamespace(shape=(2, h, 5, 64), mesh=mesh) for h in (4, 2))
    all_, batch, heads = Replicate(), Shard(0), Shard(1)
    assert sharding.forward_rules(q, k, k, None, True) == [
        ([x] * 2, [x, x, x, None, None]) for x in (all_, batch, heads)
    ]
    bounds = {all_: all_, batch: Shard(1), heads: all_}  # (2, B, L)
    assert sharding.backward_rules(q, k, k, q, q, q, object(), True) == [
        ([x] * 3, [x] * 6 + [bounds[x], None]) for x in (all_, batch, heads)
    ]


STEPS = Settings(steps=3, batch=BATCH, lr=1e-2, warmup=1, dtype="bf16")


def losses(attention: str, settings: Settings = STEPS, **options: Any) -> list[float]:
    trainer = Trainer(model(attention), settings, **options)
    batches = sequences(3 * BATCH).split(BATCH)
    return [trainer.step(n + 1, batch).loss for n, batch in enumerate(batches)]


def test_three_steps_have_the_losses_of_sdpa_to_bf16(launches) -> None:
    ours = losses("cuda")
    assert launches == (["forward"] * 2 + ["backward"] * 2) * 3
    assert ours == pytest.approx(losses("sdpa"), rel=2**-8)


def test_three_steps_in_fp32_have_them_where_only_the_attention_is_bf16(
    launches, monkeypatch
) -> None:
    def in_bf16(*qkv: Tensor, asked: str, **options: Any) -> Tensor:
        narrow = (x.bfloat16() for x in qkv)
        return attention.causal_attention(*narrow, asked=asked, **options).float()

    monkeypatch.setattr("llama_cli.model.attention.causal_attention", in_bf16)
    settings = replace(STEPS, dtype="fp32")
    ours, theirs = losses("cuda", settings), losses("sdpa", settings)
    assert launches == (["forward"] * 2 + ["backward"] * 2) * 3
    assert ours == pytest.approx(theirs, rel=2**-8)
    assert ours != theirs


def test_a_run_in_fp32_is_refused_before_it_leaves_settings(tmp_path: Path) -> None:
    settings = replace(STEPS, dtype="fp32", steps=6)
    way = Way(attention="cuda")
    wanted = replace(job(tmp_path, settings=settings, way=way), config=SMALL)
    with pytest.raises(NotReadyError, match="computes in bf16 and fp16, not in float32") as caught:
        train(wanted, Ear().listener())
    assert str(caught.value.hint).startswith("llama train --dtype bf16")
    assert list(wanted.run.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "deterministic", "recorded"),
    [("cuda", True, True), ("cuda", False, False), ("sdpa", False, True)],
)
def test_a_run_records_its_attention_and_passes_on_what_may_differ(
    launches, tmp_path: Path, name: str, deterministic: bool, recorded: bool
) -> None:
    way = Way(attention=name, deterministic=deterministic)
    settings = replace(STEPS, steps=1)
    wanted = replace(job(tmp_path, settings=settings, way=way, validation=None), config=SMALL)
    train(wanted, Ear().listener())
    about = next(read_log(wanted.run / "log.jsonl"))["run"]
    assert (about["attention"], about["attention_because"]) == (name, "asked for by name")
    assert about["deterministic"] == recorded
    expected = [] if name == "sdpa" else ["backward" if deterministic else "backward by atomics"]
    assert [x for x in launches if x != "forward"] == expected * SMALL.layers


def test_a_run_says_that_the_kernel_failed_its_trial(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    monkeypatch.setattr(proof, "_fault", lambda *_: "out is off")
    settings = replace(STEPS, steps=1)
    wanted = replace(job(tmp_path, settings=settings, validation=None), config=SMALL)
    ear = Ear()
    train(wanted, ear.listener())
    assert "attention sdpa on cpu: the cuda kernel failed its trial: out is off" in ear
