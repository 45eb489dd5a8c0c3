"""How much memory the attention takes on a real GPU: no more than arithmetic says."""

from __future__ import annotations

from functools import partial

import pytest

from llama_cli.kernels import extension
from tests.gpu.clock import most_bytes
from tests.gpu.problems import fresh, needs_gpu
from tests.kernels import results

pytestmark = pytest.mark.gpu

BATCH, HEADS, KEY_HEADS, LENGTH, SIZE = 2, 16, 4, 4_096, 128
ROWS = BATCH * HEADS * LENGTH
OF_Q, OF_K, OF_ROWS = 2 * ROWS * SIZE, 2 * ROWS * SIZE * KEY_HEADS // HEADS, 4 * ROWS  # bytes
EXTRA = {True: 0, False: 4 * ROWS * SIZE}  # for fp32 sums of atomics

FORMS = pytest.mark.parametrize("deterministic", [True, False], ids=["deterministic", "atomics"])


@FORMS
def test_the_forward_takes_its_results_and_no_more(device, deterministic) -> None:
    needs_gpu(device)
    q, k, v, _ = fresh(device, LENGTH, SIZE, heads=HEADS, key_heads=KEY_HEADS)
    most = most_bytes(lambda: extension.forward(q, k, v, None, deterministic))
    assert most <= OF_Q + OF_ROWS


@FORMS
def test_the_backward_takes_its_results_and_one_number_a_row(device, deterministic) -> None:
    needs_gpu(device)
    q, k, v, grad_out = fresh(device, LENGTH, SIZE, heads=HEADS, key_heads=KEY_HEADS)
    out, lse = extension.forward(q, k, v, None, deterministic)
    most = most_bytes(lambda: extension.backward(q, k, v, out, lse, grad_out, None, deterministic))
    assert most <= OF_Q + 2 * OF_K + OF_ROWS + EXTRA[deterministic]


@FORMS
def test_memory_grows_with_length_and_not_its_square(device, deterministic) -> None:
    needs_gpu(device)
    attend = partial(extension.causal_attention, deterministic=deterministic)
    short, long = (
        most_bytes(partial(results, attend, *fresh(device, length, 128)))
        for length in (8_192, 16_384)
    )
    assert long <= 2.01 * short
