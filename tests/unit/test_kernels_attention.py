"""Attention backends against the definition, and how one is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llama_cli.commands.train import ATTENTION
from llama_cli.errors import NotReadyError, UsageError
from llama_cli.kernels.attention import BACKENDS, backend, causal_attention, reference, sdpa


def qkv(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, queries, 16, generator=draw)
    k, v = (torch.randn(2, 3, keys, 16, generator=draw) for _ in "kv")
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


def test_auto_on_a_cpu_is_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_TRAIN_ATTENTION", raising=False)
    assert backend("cpu", torch.float32) == "sdpa"


def test_the_environment_names_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_TRAIN_ATTENTION", "reference")
    assert backend("cpu", torch.float32) == "reference"
    assert backend("cpu", torch.float32, "sdpa") == "sdpa"


@pytest.mark.parametrize("name", ["cuda", "xformers"])
def test_a_backend_asked_for_and_missing_is_an_error_with_a_cure(name: str) -> None:
    with pytest.raises(NotReadyError, match=f"attention backend '{name}'") as caught:
        backend("cpu", torch.float32, name)
    assert caught.value.hint


def test_xformers_installed_is_still_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(NotReadyError, match="does not run on a cpu"):
        backend("cpu", torch.float32, "xformers")
    assert backend("cuda", torch.float32, "xformers") == "xformers"


def test_train_offers_the_backends_that_there_are() -> None:
    assert ATTENTION == BACKENDS  # a copy, so that --help need not load torch


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="not 'flash'"):
        backend("cpu", torch.float32, "flash")


@pytest.mark.parametrize("shapes", [((1, 1, 4, 8), (1, 1, 3, 8)), ((4, 8), (4, 8))])
def test_shapes_that_do_not_agree_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    q, k = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="q must be"):
        causal_attention(q, k, k)
