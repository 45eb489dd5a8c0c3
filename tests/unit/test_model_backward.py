"""The layer's backward by hand against autograd's: gradients, memory, compilation, freezing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llama_cli.kernels import extension
from llama_cli.kernels.documents import document_bounds
from llama_cli.model.backward import kept_bytes
from llama_cli.model.config import ACTIVATIONS, Activations, ModelConfig, swiglu_hidden
from llama_cli.model.transformer import Transformer, init_weights

TINY = ModelConfig(dim=128, layers=2, heads=2, hidden=256, vocab_size=300, context=64)
BATCH, LENGTH = 2, 48
COMPILES = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
PARTITIONS = "aot_eager_decomp_partition"  # inductor's partitioner without its compilation
BY_HAND: tuple[Activations, ...] = ("linear", "full")


def make(
    activations: Activations,
    *,
    config: ModelConfig = TINY,
    attention: str | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Transformer:
    model = Transformer(config, activations=activations, attention=attention)
    init_weights(model, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    for weight in model.parameters():  # far from the start: norms too, and scores that differ
        weight.data.mul_(1 + 0.3 * torch.randn(weight.shape, generator=draw))
        if weight.dim() == 2:
            weight.data.mul_(0.08 / weight.data.std())
    return model.to(dtype)


def tokens(seed: int = 2) -> Tensor:
    return torch.randint(0, 300, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def packed(documents: bool) -> Tensor | None:
    offsets = torch.tensor([0, 5, 48, 61, 90, 96])
    return document_bounds(offsets, BATCH, LENGTH) if documents else None


def gradients(
    model: Transformer,
    *,
    bounds: Tensor | None = None,
    bf16: bool = False,
    states: Callable[..., Tensor] | None = None,
    seed: int = 2,
) -> dict[str, Tensor]:
    """Give those of all weights, and of the first layer's input where it is to be seen."""
    inputs: list[Tensor] = []
    first = model.layers[0]
    if states is None:
        handle = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = (states or model.states)(tokens(seed), bounds=bounds)
    if states is None:
        handle.remove()
    for x in inputs:
        x.retain_grad()
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype))
    found = {f"input {n}": x.grad for n, x in enumerate(inputs)}
    found |= {name: w.grad for name, w in model.named_parameters() if name != "output.weight"}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(
        ((found[name] - x).abs().max() / x.abs().max()).item() for name, x in expected.items()
    )


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "reference"])
@pytest.mark.parametrize("activations", BY_HAND)
def test_gradients_are_autograds_in_fp64(
    activations: Activations, attention: str, documents: bool
) -> None:
    bounds = packed(documents)
    by_hand, autograd = (
        gradients(make(kind, attention=attention), bounds=bounds) for kind in (activations, "keep")
    )
    assert "input 0" in autograd
    assert largest_difference(by_hand, autograd) < 1e-10


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("activations", BY_HAND)
def test_gradients_of_grouped_heads_are_autograds(activations: Activations, kv_heads: int) -> None:
    config = replace(TINY, heads=4, kv_heads=kv_heads)
    by_hand, autograd = (gradients(make(kind, config=config)) for kind in (activations, "keep"))
    assert by_hand["layers.0.attention.wk.weight"].shape == (kv_heads * 32, 128)
    assert largest_difference(by_hand, autograd) < 1e-10


@pytest.mark.parametrize("activations", BY_HAND)
def test_outputs_are_autograds_in_fp64(activations: Activations) -> None:
    by_hand, plain = (make(kind).states(tokens()) for kind in (activations, "keep"))
    assert torch.allclose(by_hand, plain, atol=1e-12)


@pytest.mark.parametrize("activations", BY_HAND)
def test_gradients_are_autograds_in_fp32(activations: Activations) -> None:
    by_hand, autograd = (
        gradients(make(kind, dtype=torch.float32)) for kind in (activations, "keep")
    )
    assert largest_difference(by_hand, autograd) < 2e-5


def mean_errors(kinds: tuple[Activations, ...], **options: str) -> dict[str, dict[str, float]]:
    """Give by kind and name the error in bf16 relative to fp64, the root mean square of five."""
    sums: dict[str, dict[str, float]] = {}
    for seed in range(5):
        true = gradients(make("keep", seed=seed), seed=seed)
        for kind in kinds:
            model = make(kind, dtype=torch.float32, seed=seed, **options)
            for name, x in gradients(model, bf16=True, seed=seed).items():
                error = ((x.double() - true[name]).norm() / true[name].norm()).item()
                sums.setdefault(kind, {}).setdefault(name, 0.0)
                sums[kind][name] += error**2
    return {k: {n: (e / 5) ** 0.5 for n, e in errors.items()} for k, errors in sums.items()}


def test_errors_in_bf16_are_those_of_autograd() -> None:
    errors = mean_errors(ACTIVATIONS)
    for kind in BY_HAND:
        for name, theirs in errors["keep"].items():
            assert errors[kind][name] <= 1.15 * theirs, (kind, name)
        assert sum(errors[kind].values()) <= 1.02 * sum(errors["keep"].values())


@pytest.mark.usefixtures("emulated")
def test_errors_in_bf16_are_those_of_autograd_with_our_kernel() -> None:
    errors = mean_errors(ACTIVATIONS, attention="cuda")
    for kind in BY_HAND:
        for name, theirs in errors["keep"].items():
            assert errors[kind][name] <= 1.15 * theirs, (kind, name)


def test_full_gives_the_bits_of_linear() -> None:
    linear, full = (
        gradients(make(kind, dtype=torch.float32), bf16=True, bounds=packed(True))
        for kind in BY_HAND
    )
    assert all(torch.equal(full[name], x) for name, x in linear.items())


@pytest.mark.parametrize("activations", BY_HAND)
def test_a_second_backward_adds_to_the_first(activations: Activations) -> None:
    model = make(activations)
    once = {name: x.clone() for name, x in gradients(model).items()}
    twice = gradients(model)
    assert all(
        torch.allclose(twice[name], 2 * x) for name, x in once.items() if "input" not in name
    )


@pytest.mark.parametrize("activations", BY_HAND)
def test_what_is_kept_survives_a_backward(activations: Activations) -> None:
    model = make(activations)
    y = model.states(tokens())
    y.sum().backward(retain_graph=True)
    weight = model.layers[0].attention.wq.weight
    assert weight.grad is not None
    once = weight.grad.clone()
    y.sum().backward()
    assert torch.equal(weight.grad, 2 * once)


def test_a_mode_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="activations are one of keep, linear, full, not 'all'"):
        make("all")  # type: ignore[arg-type]


# What is kept, in bf16 and in units of the width: a model whose heads are 128 wide and whose
# hidden layer is 2/3 * 4 of the width exactly, as in the paper's sizes.
WIDE = ModelConfig(
    dim=768, layers=1, heads=6, hidden=swiglu_hidden(768), vocab_size=100, context=64
)


def kept(activations: Activations, layers: int, rows: int, *, compile: bool) -> int:
    """Count the bytes that a forward leaves for the backward, each storage once."""
    model = Transformer(replace(WIDE, layers=layers), activations=activations)
    init_weights(model, 0)
    states = (
        torch.compile(model.states, fullgraph=True, backend=PARTITIONS) if compile else model.states
    )
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    batch = torch.zeros(rows, WIDE.context, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16), saved_tensors_hooks(pack, lambda x: x):
        y = states(batch)
    del y
    return sum(storages.values())


def kept_widths(activations: Activations, *, compile: bool = False) -> float:
    """Give bytes a token and layer over the width: what more rows and more layers add."""
    found = [
        kept(activations, layers, 2, compile=compile)
        - kept(activations, layers, 1, compile=compile)
        for layers in (1, 2)
    ]
    (per_row,) = (more - fewer for fewer, more in pairwise(found))
    return per_row / WIDE.context / WIDE.dim


@pytest.mark.parametrize(("activations", "most"), [("linear", 23.0), ("full", 2.0)])
def test_a_layer_keeps_what_it_promises(activations: Activations, most: float) -> None:
    found = kept_widths(activations)
    promised = kept_bytes(WIDE, element=2, inputs_only=activations == "full") / WIDE.dim
    assert found == pytest.approx(promised, rel=1e-9)
    assert found <= most


def test_a_layer_of_grouped_heads_keeps_what_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    grouped = replace(WIDE, kv_heads=1)
    monkeypatch.setitem(globals(), "WIDE", grouped)
    lse = 4 * grouped.heads  # which the attention of a CPU keeps for as many key heads only
    promised = (kept_bytes(grouped, element=2) - lse) / grouped.dim
    assert kept_widths("linear") == pytest.approx(promised, rel=1e-9)


@COMPILES
@pytest.mark.slow  # torch.compile makes the layer four times
@pytest.mark.parametrize(("activations", "most"), [("keep", 35.0), ("linear", 23.0), ("full", 2.0)])
def test_a_compiled_layer_keeps_no_more(activations: Activations, most: float) -> None:
    torch._dynamo.reset()
    assert kept_widths(activations, compile=True) <= most


@COMPILES
@pytest.mark.slow  # torch.compile, and once the compiler of C++
@pytest.mark.parametrize(
    ("activations", "attention", "bf16", "backend"),
    [
        ("keep", "sdpa", True, PARTITIONS),
        ("linear", "sdpa", False, PARTITIONS),
        ("linear", "reference", False, PARTITIONS),
        ("linear", "sdpa", True, "inductor"),
        ("full", "sdpa", False, PARTITIONS),
        ("full", "sdpa", True, PARTITIONS),
    ],
)
def test_a_compiled_model_is_one_graph_and_has_the_same_gradients(
    activations: Activations, attention: str, bf16: bool, backend: str
) -> None:
    torch._dynamo.reset()
    config = replace(TINY, layers=1)
    model, other = (
        make(activations, config=config, attention=attention, dtype=torch.float32) for _ in "12"
    )
    compiled = torch.compile(other.states, fullgraph=True, backend=backend)
    found = gradients(other, bf16=bf16, states=compiled)
    plain = gradients(model, bf16=bf16)
    for name, x in found.items():
        close = (plain[name] - x).norm() / x.norm()
        assert close < (0.05 if bf16 else 1e-4), name


@pytest.mark.parametrize("activations", BY_HAND)
def test_our_kernel_is_called_once_a_layer_and_direction(
    emulated: extension.Library, monkeypatch: pytest.MonkeyPatch, activations: Activations
) -> None:
    calls: list[str] = []
    run = extension.run
    monkeypatch.setattr(
        extension, "run", lambda direction, *rest: (calls.append(direction), run(direction, *rest))
    )
    gradients(make(activations, attention="cuda", dtype=torch.float32), bf16=True)
    again = ["forward", "backward"] if activations == "full" else ["backward"]
    assert calls == ["forward"] * TINY.layers + again * TINY.layers
