"""The CUDA kernels, run lane by lane on a CPU through the very operator that runs them on a GPU."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cuda_ext import SOURCE
from llama_cli.errors import LlamaError
from llama_cli.kernels import extension
from tests.kernels import (
    check_errors,
    compile_emulated,
    counts,
    definition,
    error,
    inputs,
    masked_scores,
    results,
    same_bits,
    schedule,
)

BOTH = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
SIZES = pytest.mark.parametrize("size", extension.HEAD_SIZES)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> extension.Library:
    return compile_emulated(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def emulated(
    built: extension.Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[extension.Library]:
    monkeypatch.setitem(extension.libraries, "cpu", built)
    schedule(built)
    return built


@BOTH
@SIZES
@pytest.mark.parametrize("length", [1, 64, 77, 192])
def test_errors_are_at_most_twice_those_of_plain_attention_in_the_same_dtype(
    emulated, length: int, size: int, dtype: torch.dtype
) -> None:
    check_errors(inputs(length, size, dtype))


@SIZES
def test_the_log_sum_exp_is_right_to_fp32(emulated, size: int) -> None:
    q, k, v, _ = inputs(65, size, torch.bfloat16)
    true = masked_scores(q.double(), k.double()).logsumexp(-1)
    assert (extension.forward(q, k, v, None, True)[1] - true).abs().max() < 2e-6


def test_large_scores_neither_overflow_nor_vanish(emulated) -> None:
    q, k, v, grad_out = inputs(65, 64, torch.bfloat16)
    ours = results(extension.causal_attention, q * 64, k * 64, v, grad_out)
    true = results(definition, *(x.double() for x in (q * 64, k * 64, v, grad_out)))
    assert all(x.isfinite().all() for x in ours.values())
    assert error(ours["out"], true["out"]) <= 2**-8 * true["out"].norm()


@SIZES
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("last_warp_first", [False, True])
def test_no_order_of_warps_or_copies_changes_a_bit(
    emulated, size: int, late: bool, last_warp_first: bool
) -> None:
    given = inputs(130, size, torch.bfloat16)
    schedule(emulated)
    expected = results(extension.causal_attention, *given)
    schedule(emulated, late=late, last_warp_first=last_warp_first)
    again = results(extension.causal_attention, *given)
    assert same_bits(again, expected)


@SIZES
@pytest.mark.parametrize(("length", "tiles"), [(64, 1), (65, 2), (192, 3)])
def test_tiles_that_the_mask_hides_are_not_computed(emulated, size, length, tiles) -> None:
    heads = 2 * 2  # batch and heads of `inputs`
    pairs = tiles * (tiles + 1) // 2  # of a query tile and a key tile at or before it
    product = 64 * 64 * size // (16 * 8 * 16)  # tensor-core instructions in 64 x 64 x d
    given = inputs(length, size, torch.bfloat16)
    extension.forward(*given[:3], None, True)
    assert counts(emulated)[0] == heads * pairs * 2 * product
    schedule(emulated)
    results(extension.causal_attention, *given)
    assert counts(emulated)[0] == heads * pairs * (2 + 4 + 3) * product


@SIZES
def test_no_load_waits_for_a_bank_of_shared_memory(emulated, size: int) -> None:
    results(extension.causal_attention, *inputs(65, size, torch.float16))
    _, loads, conflicts = counts(emulated)
    assert loads > 0
    assert conflicts == 0


@pytest.mark.parametrize("length", [1, 65])
def test_nothing_is_read_beyond_the_sequence(emulated, length: int) -> None:
    given = inputs(length, 64, torch.bfloat16)
    padded = [torch.full((2, 2, length + 64, 64), math.nan, dtype=x.dtype) for x in given]
    for big, x in zip(padded, given, strict=True):
        big[:, :, :length] = x
    within = [big[:, :, :length] for big in padded]
    expected = results(extension.causal_attention, *given)
    assert same_bits(results(extension.causal_attention, *within), expected)


def test_nothing_is_written_beyond_the_sequence(emulated) -> None:
    q, k, v, _ = inputs(65, 64, torch.bfloat16)
    big = torch.full((2, 2, 128, 64), 7.0, dtype=q.dtype)
    lse = torch.zeros(2, 2, 65)
    extension.run("forward", q, {"q": q, "k": k, "v": v, "out": big[:, :, :65], "lse": lse})
    assert torch.equal(big[:, :, :65], extension.causal_attention(q, k, v))
    assert (big[:, :, 65:] == 7).all()


def test_any_layout_with_whole_rows_gives_the_same_bits(emulated) -> None:
    fused = torch.randn(1, 65, 3, 2, 64).bfloat16()  # as one projection leaves q, k and v
    q, k, v = (x.transpose(1, 2) for x in fused.unbind(2))
    expected = extension.causal_attention(q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(extension.causal_attention(q, k, v), expected)


# Faults put into the source, to see that these tests would find them: file, text, its replacement.
FAULTS = {
    "a copy that nobody waits for": ("forward.h", "    wait_copies<0>();\n", ""),
    "a buffer overwritten while in use": ("backward.h", "    __syncthreads();", "    "),
    "a mask off by one": ("softmax.h", "column > row :", "column > row + 1 :"),
    "a row beyond the end": ("tile.h", "row < length;", "row <= length;"),
    "lanes that part": ("softmax.h", "    now = row_max", "    if (lane() < 9) now = row_max"),
}


def compare_with_definition(library: extension.Library) -> None:
    """Run what the tests above run, at one size, in both orders of warps."""
    given = inputs(130, 64, torch.bfloat16)
    true = results(definition, *(x.double() for x in given))
    for last in (False, True):
        schedule(library, last_warp_first=last)
        test_nothing_is_read_beyond_the_sequence(library, 65)
        ours = results(extension.causal_attention, *given)
        assert all(error(ours[name], x) <= 2**-7 * x.norm() for name, x in true.items())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernel_is_found(fault: str, tmp_path: Path, monkeypatch) -> None:
    name, text, instead = FAULTS[fault]
    for source in SOURCE.parent.glob("*.[hc]*"):
        shutil.copy(source, tmp_path)
    whole = (tmp_path / name).read_text()
    assert text in whole
    (tmp_path / name).write_text(whole.replace(text, instead))
    faulty = compile_emulated(tmp_path, tmp_path / SOURCE.name, "-O0")
    monkeypatch.setitem(extension.libraries, "cpu", faulty)
    with pytest.raises((AssertionError, LlamaError)):
        compare_with_definition(faulty)


def test_the_kernel_without_a_fault_passes_the_same(emulated) -> None:
    compare_with_definition(emulated)
