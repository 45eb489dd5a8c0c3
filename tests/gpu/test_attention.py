"""The attention kernels on a real GPU, on fresh random inputs: right, and the same every time.

What the emulation cannot show: the PTX of prim.h, real asynchrony, and large problems.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from llama_cli.kernels import extension, library
from llama_cli.kernels.documents import document_bounds
from tests.gpu import variants
from tests.gpu.problems import (
    STARTS,
    check_errors,
    first_of,
    fresh,
    longest,
    offsets_of,
    solutions,
    solve_by_chunks,
)
from tests.kernels import compare, masked_scores, results, same_bits

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
SIZES = pytest.mark.parametrize("size", library.HEAD_SIZES)
FORMS = pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "atomics"])

# on a tile's edge, beside it, and between
LENGTHS = (1, 2, 17, 63, 64, 65, 100, 127, 128, 129, 192, 255, 257, 1_000, 1_024, 2_048, 3_001)


def bounds_of(offsets: list[int], device: str, batch: int, length: int) -> Tensor:
    return document_bounds(torch.tensor(offsets, device=device), batch, length)


@FORMS
@DTYPES
@SIZES
@pytest.mark.parametrize("length", LENGTHS)
def test_errors_are_at_most_twice_those_of_plain_attention(
    device, length, size, dtype, deterministic
) -> None:
    # errors at length 2 are one number a head, and must be compared over many
    heads = 32 if length < 500 and device == "cuda" else 8
    attend = partial(extension.causal_attention, deterministic=deterministic)
    check_errors(attend, fresh(device, length, size, dtype, heads=heads))


@FORMS
@SIZES
@pytest.mark.parametrize("length", [129, 1_000])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (8, 1), (32, 4), (6, 2), (1, 1)])
def test_heads_that_share_keys_are_right(device, heads, length, size, deterministic) -> None:
    attend = partial(extension.causal_attention, deterministic=deterministic)
    check_errors(attend, fresh(device, length, size, heads=heads[0], key_heads=heads[1]))


@FORMS
@SIZES
@pytest.mark.parametrize("length", [1_000, 1_024])
@pytest.mark.parametrize("kind", STARTS)
def test_packed_documents_do_not_see_each_other(device, kind, length, size, deterministic) -> None:
    length = longest(device, length)
    offsets = offsets_of(kind, 2, length)
    attend = partial(
        extension.causal_attention,
        bounds=bounds_of(offsets, device, 2, length),
        deterministic=deterministic,
    )
    given = fresh(device, length, size, heads=4, key_heads=2)
    check_errors(attend, given, first_of(offsets, 2, length).to(device))


@SIZES
def test_a_document_is_the_same_bits_beside_any_other(device, size) -> None:
    length = longest(device, 1_000)
    middle = slice(length // 3, length // 2 + 5)
    bounds = bounds_of([0, middle.start, middle.stop, length], device, 1, length)
    attend = partial(extension.causal_attention, bounds=bounds)
    given, others = (fresh(device, length, size, batch=1) for _ in range(2))
    for x, other in zip(given, others, strict=True):
        other[:, :, middle] = x[:, :, middle]
    some, same = results(attend, *given), results(attend, *others)
    for name, x in some.items():
        assert torch.equal(x[:, :, middle], same[name][:, :, middle]), name


@SIZES
def test_one_document_a_row_is_the_same_bits_as_none_said(device, size) -> None:
    length = longest(device, 1_000)
    given = fresh(device, length, size)
    bounds = bounds_of([0, length, 2 * length], device, 2, length)
    packed = results(partial(extension.causal_attention, bounds=bounds), *given)
    assert same_bits(packed, results(extension.causal_attention, *given))


@SIZES
def test_the_log_sum_exp_is_right_to_fp32(device, size) -> None:
    q, k, v, _ = fresh(device, longest(device, 1_000), size)
    true = masked_scores(q.double(), k.double()).logsumexp(-1)
    assert (extension.forward(q, k, v, None, True)[1] - true).abs().max() < 1e-5


@DTYPES
@SIZES
@pytest.mark.parametrize("packed", [False, True])
def test_ten_runs_are_the_same_bits(device, packed, size, dtype) -> None:
    length = longest(device, 2_048)
    given = fresh(device, length, size, dtype, heads=8, key_heads=2)
    bounds = bounds_of(offsets_of("at random", 2, length), device, 2, length) if packed else None
    attend = partial(extension.causal_attention, bounds=bounds)
    once = results(attend, *given)
    for _ in range(10 if device == "cuda" else 1):
        assert same_bits(results(attend, *given), once)


@DTYPES
@SIZES
def test_large_scores_neither_overflow_nor_vanish(device, size, dtype) -> None:
    q, k, v, grad_out = fresh(device, longest(device, 300), size, dtype)
    found = results(extension.causal_attention, 16 * q, 16 * k, v, grad_out)
    assert all(x.isfinite().all() for x in found.values())


@FORMS
def test_a_long_sequence_is_as_right_as_by_flash(device, deterministic) -> None:
    given = fresh(device, longest(device, 16_384), 128, batch=1, heads=2)

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    ours = partial(extension.causal_attention, deterministic=deterministic)
    compare(results(ours, *given), results(flash, *given), solve_by_chunks(given))


def test_as_many_batches_as_a_grid_takes(device) -> None:
    batch = 65_535 if device == "cuda" else 70
    check_errors(extension.causal_attention, fresh(device, 3, 64, batch=batch, heads=2))


def test_as_many_heads_as_a_grid_takes(device) -> None:
    heads = 65_535 if device == "cuda" else 70
    given = fresh(device, 3, 64, batch=1, heads=heads, key_heads=heads // 5)
    check_errors(extension.causal_attention, given)


@FORMS
def test_elements_beyond_the_reach_of_32_bits_are_found(device, deterministic) -> None:
    batch, heads, length = (2_100, 128, 128) if device == "cuda" else (3, 4, 65)
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 50e9:
        pytest.skip("needs 50 GB")
    given = fresh(device, length, 64, batch=batch, heads=heads, key_heads=1)
    assert device != "cuda" or given[0].numel() > 2**31
    attend = partial(extension.causal_attention, deterministic=deterministic)
    found = results(attend, *given)
    for one in (0, batch // 2, batch - 1):
        here = slice(one, one + 1)
        mine = {name: x[here] for name, x in found.items()}
        compare(mine, *solutions([x[here] for x in given]))


@pytest.mark.parametrize("variant", variants.VARIANTS, ids=str)
def test_every_element_of_a_result_is_written_and_none_beyond(device, variant) -> None:
    memory = PoisonedMemory(device)
    variants.run(variant, library.opened(torch.device(device)), memory, memory.stream)
    for name, whole in memory.tensors.items():
        assert whole[: memory.sizes[name]].isfinite().all(), name
        assert whole[memory.sizes[name] :].isnan().all(), name


class PoisonedMemory:
    """Rooms full of NaN, and more NaN behind each."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
        self.tensors: dict[str, Tensor] = {}
        self.sizes: dict[str, int] = {}
        self.bounds: list[Tensor] = []  # whole numbers, which nobody writes

    def put(self, name: str, x: Tensor) -> int:
        if not x.is_floating_point():
            self.bounds.append(x.to(self.device))
            return self.bounds[-1].data_ptr()
        address = self.room(name, tuple(x.shape), x.dtype)
        self.tensors[name][: x.numel()] = x.flatten()
        return address

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        self.sizes[name] = size = torch.Size(shape).numel()
        whole = torch.full((size + 4_096,), torch.nan, dtype=dtype, device=self.device)
        self.tensors[name] = whole
        return whole.data_ptr()


@FORMS
@SIZES
def test_nothing_is_read_beyond_a_sequence(device, size, deterministic) -> None:
    length = longest(device, 1_000)
    given = fresh(device, length, size)
    padded = [torch.full((2, 4, length + 130, size), torch.nan).to(x) for x in given]
    for whole, x in zip(padded, given, strict=True):
        whole[:, :, :length] = x
    attend = partial(extension.causal_attention, deterministic=deterministic)
    check_errors(attend, [whole[:, :, :length] for whole in padded])


@SIZES
@pytest.mark.parametrize("key_heads", [4, 1])
def test_any_layout_with_whole_rows_gives_the_same_bits(device, key_heads, size) -> None:
    length, heads = longest(device, 1_000), 4
    fused = fresh(device, length, size, heads=heads + 2 * key_heads)[0]  # one projection's output
    q, k, v = fused.split([heads, key_heads, key_heads], 1)
    grad_out = fresh(device, length, size, heads=heads)[0]
    expected = results(extension.causal_attention, *(x.contiguous() for x in (q, k, v, grad_out)))
    assert same_bits(results(extension.causal_attention, q, k, v, grad_out), expected)


def test_a_gradient_without_rows_of_its_own_is_taken(device) -> None:
    q, k, v, grad_out = fresh(device, longest(device, 300), 64)
    one = torch.ones((), dtype=q.dtype, device=device).expand_as(grad_out)
    expected = results(extension.causal_attention, q, k, v, one.contiguous())
    assert same_bits(results(extension.causal_attention, q, k, v, one), expected)


def test_solving_by_chunks_is_solving_at_once() -> None:
    given = fresh("cpu", 50, 64)
    _, true = solutions(given)
    for name, x in solve_by_chunks(given, rows=16).items():
        assert torch.allclose(x, true[name], atol=1e-12), name
