"""What the CUDA kernels compute, run lane by lane on a CPU through the operator of a GPU."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from llama_cli.kernels import extension, library
from llama_cli.kernels.documents import document_bounds
from tests.kernels import (
    check_errors,
    counts,
    definition,
    error,
    inputs,
    masked_scores,
    results,
    same_bits,
    schedule,
    visible,
)

BOTH = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
SIZES = pytest.mark.parametrize("size", library.HEAD_SIZES)
BACKWARDS = pytest.mark.parametrize("deterministic", [True, False], ids=["ordered", "atomics"])

BATCH = 2  # of `inputs`
STRIP = 32  # cuda_ext/tile.h
PRODUCT = 16 * 8 * 16  # multiplications in a matrix instruction

# Lengths of documents in a row of 200: one token, within a tile, over its edge, at its edge.
PACKED = [[1, 1, 30, 31, 1, 64, 72], [63, 2, 127, 8]]


def bounds_of(rows: list[list[int]]) -> Tensor:
    ends = torch.tensor([size for row in rows for size in row]).cumsum(0)
    return document_bounds(torch.cat([ends.new_zeros(1), ends]), len(rows), sum(rows[0]))


@BOTH
@SIZES
@pytest.mark.parametrize("length", [1, 33, 64, 129])
def test_errors_are_at_most_twice_those_of_plain_attention_in_the_same_dtype(
    emulated, length: int, size: int, dtype: torch.dtype
) -> None:
    check_errors(inputs(length, size, dtype))


@BOTH
@SIZES
@pytest.mark.parametrize("length", [1, 200])
def test_atomics_make_no_greater_errors(emulated, length, size, dtype) -> None:
    check_errors(inputs(length, size, dtype), deterministic=False)


@SIZES
@BACKWARDS
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (3, 1)])
def test_query_heads_share_the_key_head_of_their_group(
    emulated, size: int, deterministic: bool, heads: int, key_heads: int
) -> None:
    given = inputs(97, size, torch.bfloat16, heads=heads, key_heads=key_heads)
    check_errors(given, deterministic=deterministic)


@SIZES
@BACKWARDS
def test_packed_documents_are_kept_apart(emulated, size: int, deterministic: bool) -> None:
    given = inputs(200, size, torch.bfloat16)
    check_errors(given, bounds_of(PACKED), deterministic=deterministic)


@BACKWARDS
def test_packed_documents_and_grouped_heads_go_together(emulated, deterministic: bool) -> None:
    given = inputs(200, 64, torch.float16, heads=4, key_heads=2)
    check_errors(given, bounds_of(PACKED), deterministic=deterministic)


def test_one_document_a_row_is_as_no_documents(emulated) -> None:
    given = inputs(130, 64, torch.bfloat16)
    whole = partial(extension.causal_attention, bounds=bounds_of([[130], [130]]))
    assert same_bits(results(whole, *given), results(extension.causal_attention, *given))


@SIZES
def test_the_log_sum_exp_is_right_to_fp32(emulated, size: int) -> None:
    q, k, v, _ = inputs(200, size, torch.bfloat16)
    bounds = bounds_of(PACKED)
    true = masked_scores(q.double(), k.double(), bounds).logsumexp(-1)
    assert (extension.forward(q, k, v, bounds, True)[1] - true).abs().max() < 2e-6


def test_large_scores_neither_overflow_nor_vanish(emulated) -> None:
    q, k, v, grad_out = inputs(65, 64, torch.bfloat16)
    ours = results(extension.causal_attention, q * 64, k * 64, v, grad_out)
    true = results(definition, *(x.double() for x in (q * 64, k * 64, v, grad_out)))
    assert all(x.isfinite().all() for x in ours.values())
    assert error(ours["out"], true["out"]) <= 2**-8 * true["out"].norm()


@pytest.mark.parametrize("rise", [-0.6, 0.05, 0.6], ids=["fall", "rise within slack", "rise"])
def test_scores_that_rise_from_key_to_key_are_followed(emulated, rise: float) -> None:
    q, k, v, grad_out = inputs(200, 64, torch.float16)
    steps = torch.arange(200.0)[:, None]
    k[..., :1], q[..., :1] = steps * rise, 8  # 8 / sqrt(64): scores rise by `rise` a key
    check_errors([q, k, v, grad_out])


@pytest.mark.parametrize("jump", [5.5, 11.4, 30], ids=["within slack", "over fp16", "far over"])
def test_a_jump_of_scores_does_not_overflow(emulated, jump: float) -> None:
    q, k, v, grad_out = inputs(97, 64, torch.float16)
    q, k[..., :1] = q / 64, 0
    k[..., 64:, :1], q[..., :1] = jump, 8  # 8 / sqrt(64); exp(11.4) is more than fp16 has
    check_errors([q, k, v, grad_out])


@SIZES
@BACKWARDS
@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
@pytest.mark.parametrize("last_warp_first", [False, True], ids=["warp", "warprev"])
def test_no_order_of_warps_or_copies_changes_a_bit(
    emulated, size: int, deterministic: bool, late: bool, last_warp_first: bool
) -> None:
    given = inputs(200, size, torch.bfloat16)
    attend = partial(
        extension.causal_attention, bounds=bounds_of(PACKED), deterministic=deterministic
    )
    schedule(emulated)
    expected = results(attend, *given)
    schedule(emulated, late=late, last_warp_first=last_warp_first)
    assert same_bits(results(attend, *given), expected)


@SIZES
@pytest.mark.parametrize("tiles", [2, 4])
def test_the_matrix_instructions_are_those_of_the_causal_formula(emulated, size, tiles) -> None:
    heads, strips = BATCH * 2, 2 * tiles
    pairs = strips * (strips + 1) // 2  # of 32 queries, and 32 keys at or before them
    product = STRIP * STRIP * size // PRODUCT
    given = inputs(64 * tiles, size, torch.bfloat16)
    extension.forward(*given[:3], None, True)
    assert counts(emulated)[0] == heads * pairs * 2 * product
    schedule(emulated)
    results(extension.causal_attention, *given)
    assert counts(emulated)[0] == heads * pairs * (2 + 4 + 3) * product


@SIZES
def test_atomics_spare_two_products_of_seven(emulated, size: int) -> None:
    heads, tiles = BATCH * 2, 4
    strips = 2 * tiles
    pairs = strips * (strips + 1) // 2 * STRIP**2  # met by queries, or by keys
    summed = tiles * (tiles + 1) // 2 * (2 * STRIP) ** 2  # the gradient of q, tile by tile
    attend = partial(extension.causal_attention, deterministic=False)
    results(attend, *inputs(64 * tiles, size, torch.bfloat16))
    assert counts(emulated)[0] == heads * (pairs * (2 + 4) + summed) * size // PRODUCT


def test_strips_outside_of_a_document_are_not_computed(emulated) -> None:
    q, k, v, grad_out = inputs(256, 64, torch.bfloat16)
    bounds = bounds_of([[100, 156], [17, 15, 224]])
    seen = visible(q, bounds)[:, 0]
    met = 0
    for rows, columns, products in ((32, 32, 2), (32, 16, 4), (16, 32, 3)):
        strips = seen.unfold(1, rows, rows).unfold(2, columns, columns).flatten(3).any(-1)
        met += 2 * int(strips.sum()) * rows * columns * products  # two heads
    results(partial(extension.causal_attention, bounds=bounds), q, k, v, grad_out)
    assert counts(emulated)[0] == met * 64 // PRODUCT


@SIZES
@BACKWARDS
def test_no_load_waits_for_a_bank_of_shared_memory(emulated, size, deterministic) -> None:
    attend = partial(extension.causal_attention, deterministic=deterministic)
    results(attend, *inputs(65, size, torch.float16))
    _, loads, conflicts = counts(emulated)
    assert loads > 0
    assert conflicts == 0


def test_what_is_kept_for_the_backward_grows_with_length_and_not_its_square(emulated) -> None:
    kept: list[Tensor] = []
    q, k, v, _ = inputs(65, 64, torch.bfloat16, heads=4, key_heads=2)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        extension.causal_attention(q.requires_grad_(), k, v, bounds=bounds_of([[65], [1, 64]]))
    rows = BATCH * 65
    expected = [2 * rows, 4 * rows, *[2 * rows * 64] * 2, *[4 * rows * 64] * 2]
    assert sorted(x.numel() for x in kept) == expected  # bounds, lse, k and v, q and out


@BACKWARDS
@pytest.mark.parametrize("length", [1, 65])
def test_nothing_is_read_beyond_the_sequence(emulated, length: int, deterministic: bool) -> None:
    attend = partial(extension.causal_attention, deterministic=deterministic)
    given = inputs(length, 64, torch.bfloat16)
    padded = [torch.full((2, 2, length + 64, 64), math.nan, dtype=x.dtype) for x in given]
    for big, x in zip(padded, given, strict=True):
        big[:, :, :length] = x
    within = [big[:, :, :length] for big in padded]
    assert same_bits(results(attend, *within), results(attend, *given))


def test_nothing_is_written_beyond_the_sequence(emulated) -> None:
    q, k, v, _ = inputs(65, 64, torch.bfloat16)
    big = torch.full((2, 2, 128, 64), 7.0, dtype=q.dtype)
    lse = torch.full((2, 2, 66), 7.0)
    tensors = {"q": q, "k": k, "v": v, "out": big[:, :, :65], "lse": lse.flatten()[: 2 * 2 * 65]}
    library.run("forward", q, tensors)
    assert torch.equal(big[:, :, :65], extension.causal_attention(q, k, v))
    assert (big[:, :, 65:] == 7).all()
    assert (lse.flatten()[2 * 2 * 65 :] == 7).all()


@BACKWARDS
def test_the_backward_keeps_to_its_rows_of_fp32(emulated, deterministic: bool) -> None:
    q, k, v, grad_out = inputs(65, 64, torch.bfloat16)
    out, lse = extension.forward(q, k, v, None, True)
    beyond = torch.full((64 * 64,), math.nan)
    delta = torch.full((lse.numel() + 64,), math.nan)
    sums = torch.cat([torch.zeros(q.numel()), torch.full_like(beyond, -0.0)])
    grads = {
        f"grad_{x}": torch.empty_like(given) for x, given in zip("qkv", (q, k, v), strict=True)
    }
    given = {"q": q, "k": k, "v": v, "out": out, "grad_out": grad_out}
    room = {"delta": delta, "sums": None if deterministic else sums}
    library.run("backward", q, given | grads | room | {"lse": torch.cat([lse.flatten(), beyond])})
    expected = extension.backward(q, k, v, out, lse, grad_out, None, deterministic)
    assert all(map(torch.equal, grads.values(), expected))
    assert delta[lse.numel() :].isnan().all()
    assert sums[q.numel() :].signbit().all()  # lost to whatever is added, were it a zero


def test_any_layout_with_whole_rows_gives_the_same_bits(emulated) -> None:
    fused = torch.randn(1, 65, 3, 2, 64).bfloat16()  # as one projection leaves q, k and v
    q, k, v = (x.transpose(1, 2) for x in fused.unbind(2))
    expected = extension.causal_attention(q.contiguous(), k.contiguous(), v.contiguous())
    assert torch.equal(extension.causal_attention(q, k, v), expected)


@BACKWARDS
def test_an_axis_of_one_may_have_any_stride(emulated, deterministic: bool) -> None:
    given = [torch.randn(1, 1, 64, 1).bfloat16().mT for _ in range(4)]
    assert given[0].stride() == (64, 64, 1, 1)
    check_errors(given, deterministic=deterministic)


def test_a_gradient_without_rows_of_its_own_is_taken(emulated) -> None:
    q, k, v, _ = inputs(3, 64, torch.bfloat16)
    out = extension.causal_attention(q, k, v.requires_grad_())
    out.sum().backward()  # its gradient is a one, expanded
    weights = definition(q.double(), k.double(), torch.eye(3).double().expand(2, 2, 3, 3))
    assert torch.allclose(v.grad[..., 0].double(), weights.sum(-2), atol=0.02)
