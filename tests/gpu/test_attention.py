"""The attention kernels on a real GPU, on fresh random inputs; `make gpu` runs these.

What the emulation cannot show: the PTX of prim.h, real asynchrony, and memory in use.
"""

from __future__ import annotations

import secrets

import pytest
import torch

from llama_cli.kernels import extension
from tests.kernels import check_errors, inputs, masked_scores, results, same_bits

WHY_NOT = extension.available("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=f"cuda kernel {WHY_NOT}")]

HEADS = 32  # ours; errors at length 2 are one number a head, and must be compared over many

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
SIZES = pytest.mark.parametrize("size", extension.HEAD_SIZES)


def fresh(length: int, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Make inputs on the GPU; the seed is printed, for when a test fails."""
    seed = secrets.randbits(32)
    print("seed", seed)
    return [x.cuda() for x in inputs(length, size, dtype, heads=HEADS, seed=seed)]


@DTYPES
@SIZES
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 100, 127, 128, 129, 1000, 2048])
def test_errors_are_at_most_twice_those_of_plain_attention(length, size, dtype) -> None:
    check_errors(fresh(length, size, dtype))


@SIZES
def test_the_log_sum_exp_is_right_to_fp32(size: int) -> None:
    q, k, v, _ = fresh(1000, size, torch.bfloat16)
    true = masked_scores(q.double(), k.double()).logsumexp(-1)
    assert (extension.forward(q, k, v)[1] - true).abs().max() < 1e-5


@DTYPES
@SIZES
def test_two_runs_are_the_same_bits(size: int, dtype: torch.dtype) -> None:
    given = fresh(2048, size, dtype)
    once = results(extension.causal_attention, *given)
    for _ in range(10):
        assert same_bits(results(extension.causal_attention, *given), once)


def test_memory_grows_with_length_and_not_its_square() -> None:
    def peak(length: int) -> int:
        given = fresh(length, 128, torch.bfloat16)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results(extension.causal_attention, *given)
        return torch.cuda.max_memory_allocated() - before

    assert peak(16_384) <= 2.1 * peak(8_192)


def test_work_on_another_stream_is_ordered_with_it() -> None:
    q, k, v, _ = fresh(2048, 128, torch.bfloat16)
    expected = extension.causal_attention(q, k, v)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10_000_000)  # cycles: the kernel must wait for what fills its input
        late = torch.zeros_like(q).copy_(q)
        found = extension.causal_attention(late, k, v)
    torch.cuda.synchronize()
    assert torch.equal(found, expected)
