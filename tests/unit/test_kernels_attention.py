"""Attention backends against the definition, and how one is chosen."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from cuda_ext import build
from llama_cli.commands import _version
from llama_cli.commands.train import ATTENTION
from llama_cli.errors import NotReadyError, UsageError
from llama_cli.kernels import attention, extension, library, proof
from llama_cli.kernels.attention import BACKENDS, backend, causal_attention, choose
from llama_cli.kernels.backends import reference, sdpa, xformers
from llama_cli.kernels.documents import document_bounds

CPU = torch.device("cpu")


def qkv(queries: int, keys: int, *, key_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, queries, 16, generator=draw)
    k, v = (torch.randn(2, key_heads, keys, 16, generator=draw) for _ in "kv")
    return q, k, v


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 7), (1, 7), (3, 7)])
def test_sdpa_is_the_definition(queries: int, keys: int) -> None:
    q, k, v = qkv(queries, keys)
    assert (sdpa(q, k, v) - reference(q, k, v)).abs().max() < 1e-5


def test_the_first_position_sees_only_itself() -> None:
    q, k, v = qkv(5, 5)
    assert torch.allclose(causal_attention(q, k, v)[:, :, 0], v[:, :, 0], atol=1e-6)


def test_equal_scores_give_the_mean_of_the_past() -> None:
    v = torch.arange(4.0).view(1, 1, 4, 1)
    out = reference(torch.zeros(1, 1, 4, 1), torch.zeros(1, 1, 4, 1), v)
    assert out.flatten().tolist() == [0.0, 0.5, 1.0, 1.5]


@pytest.fixture
def with_xformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in where xformers would be: masks that say what they hide, and their softmax."""

    class Mask:
        def __init__(self, lengths: list[int] | None = None) -> None:
            self.lengths = lengths

        @classmethod
        def from_seqlens(cls, lengths: list[int]) -> Mask:
            return cls(lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor, *, attn_bias: Mask) -> Tensor:
        lengths = attn_bias.lengths or [q.shape[1]]
        assert sum(lengths) == q.shape[1]
        assert q.shape == k.shape == v.shape  # (B, L, H, D)
        parts = zip(*(x.transpose(1, 2).split(lengths, 2) for x in (q, k, v)), strict=True)
        return torch.cat([reference(*part) for part in parts], 2).transpose(1, 2)

    modules = {name: ModuleType(name) for name in ("", ".ops", ".ops.fmha", ".ops.fmha.attn_bias")}
    modules[".ops"].LowerTriangularMask = Mask
    modules[".ops"].memory_efficient_attention = attend
    modules[".ops.fmha.attn_bias"].BlockDiagonalCausalMask = Mask
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"xformers{name}", module)


ALL = pytest.mark.parametrize("attend", [reference, sdpa, xformers])


@ALL
@pytest.mark.parametrize("key_heads", [1, 2])
def test_heads_of_a_group_read_one_key_head(with_xformers, attend: Callable, key_heads) -> None:
    q, k, v = qkv(7, 7, key_heads=key_heads)
    out = attend(q, k, v)
    for head in range(4):
        key = head // (4 // key_heads)
        alone = reference(*(x[:, i : i + 1] for x, i in ((q, head), (k, key), (v, key))))
        assert (out[:, head : head + 1] - alone).abs().max() < 1e-5


@ALL
@pytest.mark.parametrize("key_heads", [2, 4])
def test_packed_documents_are_as_if_each_were_alone(with_xformers, attend, key_heads) -> None:
    q, k, v = qkv(7, 7, key_heads=key_heads)
    bounds = document_bounds(torch.tensor([0, 3, 9, 14]), 2, 7)  # cut at the row's end
    out = attend(q, k, v, bounds)
    for row, begin, end in [(0, 0, 3), (0, 3, 7), (1, 0, 2), (1, 2, 7)]:
        alone = reference(*(x[row : row + 1, :, begin:end] for x in (q, k, v)))
        assert (out[row : row + 1, :, begin:end] - alone).abs().max() < 1e-5


def test_xformers_without_bounds_is_the_definition(with_xformers) -> None:
    q, k, v = qkv(7, 7)
    assert (xformers(q, k, v) - reference(q, k, v)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["sdpa", "reference"])
def test_the_backends_take_bounds_and_groups_by_name(name: str) -> None:
    q, k, v = qkv(7, 7, key_heads=2)
    bounds = document_bounds(torch.tensor([0, 3, 14]), 2, 7)
    found = causal_attention(q, k, v, bounds=bounds, asked=name)
    assert (found - reference(q, k, v, bounds)).abs().max() < 1e-5


def test_auto_on_a_cpu_is_sdpa_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    found = choose("cpu", torch.float32, 128)
    assert str(found) == "sdpa on cpu: the cuda kernel runs on an NVIDIA GPU, not on a cpu"


def test_the_environment_names_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_TRAIN_ATTENTION", "reference")
    assert backend(CPU, torch.float32, 128) == "reference"
    assert backend(CPU, torch.float32, 128, "sdpa") == "sdpa"
    assert choose(CPU, torch.float32, 128).why == "asked for by name"


def missing(device: str, dtype: torch.dtype, size: int, name: str) -> NotReadyError:
    with pytest.raises(NotReadyError, match=f"attention backend '{name}'") as caught:
        choose(device, dtype, size, name)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", ["cuda", "xformers"])
def test_a_backend_asked_for_and_missing_is_an_error_with_a_cure(name: str) -> None:
    missing("cpu", torch.float32, 128, name)


def test_xformers_installed_is_still_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "does not run on a cpu" in str(missing("cpu", torch.float32, 128, "xformers"))
    assert backend(torch.device("cuda"), torch.float32, 128, "xformers") == "xformers"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Pretend that the kernel runs on this CPU; it is the definition. Yields its calls."""
    called = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
        called.append(str(q.dtype))
        return reference(q, k, v)

    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    monkeypatch.setattr(attention, "available", lambda _: None)
    monkeypatch.setattr(extension, "causal_attention", attend)
    monkeypatch.setattr(proof, "causal_attention", attend)
    proof.fault.cache_clear()
    yield called
    proof.fault.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [64, 128])
def test_auto_is_the_kernel_where_it_runs_and_passes_its_trial(kernel, dtype, size: int) -> None:
    found = choose("cpu", dtype, size)
    assert (found.name, found.why) == ("cuda", "the cuda kernel passed its trial")
    assert kernel == [str(dtype)] * 2  # both head sizes


@pytest.mark.parametrize(
    ("dtype", "size", "reason"),
    [
        (torch.float32, 128, "computes in bf16 and fp16, not in float32"),
        (torch.bfloat16, 32, "has heads of 64 and 128, not of 32"),
    ],
)
def test_what_the_kernel_does_not_take_is_said_by_auto_and_refused_by_name(
    kernel, dtype: torch.dtype, size: int, reason: str
) -> None:
    assert str(choose("cpu", dtype, size)) == f"sdpa on cpu: the cuda kernel {reason}"
    assert str(missing("cpu", dtype, size, "cuda")) == f"attention backend 'cuda' {reason}"
    assert kernel == []


def test_fp32_is_cured_by_bf16(kernel) -> None:
    assert str(missing("cpu", torch.float32, 64, "cuda").hint).startswith("llama train --dtype bf1")


@pytest.mark.parametrize("wrong", [2.0, math.nan])
def test_a_kernel_that_computes_something_else_is_not_chosen(kernel, monkeypatch, wrong) -> None:
    monkeypatch.setattr(proof, "causal_attention", lambda q, k, v: wrong * reference(q, k, v))
    found = choose("cpu", torch.bfloat16, 64)
    assert found.name == "sdpa"
    assert found.why.startswith("the cuda kernel failed its trial: out is off by")


def test_a_kernel_with_a_wrong_gradient_is_not_chosen(kernel, monkeypatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v.register_hook(lambda grad: grad * 1.1)
        return reference(q, k, v)

    monkeypatch.setattr(proof, "causal_attention", attend)
    assert "the gradient of v is off" in choose("cpu", torch.bfloat16, 64).why


def test_a_kernel_that_cannot_be_launched_is_not_chosen(kernel, monkeypatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise library.failure(35, "insufficient driver")

    monkeypatch.setattr(proof, "causal_attention", attend)
    assert "trial: the NVIDIA driver is older" in choose("cpu", torch.bfloat16, 64).why


def test_the_trial_takes_place_once_a_process(kernel) -> None:
    assert [choose("cpu", torch.bfloat16, 64).name for _ in range(3)] == ["cuda"] * 3
    assert len(kernel) == 2


def test_the_trial_does_not_depend_on_what_is_around_it(kernel) -> None:
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert choose("cpu", torch.bfloat16, 64).name == "cuda"
    assert torch.equal(torch.get_rng_state(), before)


def test_a_named_kernel_needs_no_trial(kernel) -> None:
    assert choose("cpu", torch.bfloat16, 64, "cuda").name == "cuda"
    assert kernel == []


def test_sdpa_stands_in_where_a_cache_holds_more_keys(kernel) -> None:
    q, k, v = (torch.randn(1, 1, n, 64).bfloat16() for n in (1, 3, 3))
    causal_attention(q, k, v, asked="cuda")
    assert kernel == []


def test_train_offers_the_backends_that_there_are() -> None:
    assert ATTENTION == BACKENDS  # a copy, so that --help need not load torch


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="not 'flash'"):
        choose("cpu", torch.float32, 128, "flash")


@pytest.mark.parametrize("shapes", [((1, 1, 4, 8), (1, 1, 3, 8)), ((4, 8), (4, 8))])
def test_shapes_that_do_not_agree_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    q, k = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="q must be"):
        causal_attention(q, k, k)


@pytest.mark.parametrize("key_heads", [0, 3, 8])
def test_heads_that_are_no_groups_are_refused(key_heads: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of those of k and v, not 4 and {key_heads}"):
        causal_attention(*qkv(3, 3, key_heads=key_heads))


@pytest.mark.parametrize(("keys", "length"), [(7, 6), (8, 7)])
def test_bounds_of_another_shape_are_refused(keys: int, length: int) -> None:
    with pytest.raises(ValueError, match="bounds must be"):
        causal_attention(*qkv(7, keys), bounds=torch.zeros(2, 2, length, dtype=torch.int32))


def test_the_version_says_what_runs_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    said = list(_version.details())
    assert "attention sdpa on cpu: the cuda kernel runs on an NVIDIA GPU, not on a cpu" in said
    assert said[-2].startswith("attention kernel ")
    assert said[-1].startswith("processor kernel built; ")


def test_the_version_says_what_was_asked_for_and_cannot_run(monkeypatch) -> None:
    monkeypatch.setenv("LLAMA_TRAIN_ATTENTION", "cuda")
    assert "attention none on cpu: attention backend 'cuda' runs on" in "\n".join(
        _version.details()
    )


def test_the_state_of_the_library_is_one_line(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "library.so")
    assert library.state() == "not built; try: python -m cuda_ext.build"
    (tmp_path / "library.so").touch()
    assert library.state().startswith(f"cannot be used: {tmp_path}/library.so: ")
    monkeypatch.setattr(library, "load", lambda _: None)
    assert library.state().endswith("built from other sources than are here; try: " + library.BUILD)
    monkeypatch.setattr(build, "fresh", lambda _: True)
    assert library.state() == f"built for {build.BUILT_FOR}"
