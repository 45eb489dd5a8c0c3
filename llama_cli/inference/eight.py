"""Matrices in eight bits, as the processor's kernel reads them (cuda_ext/host/products.h).

Sixteen rows lie beside each other, four numbers of each at a time, both filled up with zeros.
Legend: M rows, K width.
"""

from __future__ import annotations

import numpy as np

from llama_cli.kernels.host import Matrix
from llama_cli.model.dtypes import Array, widened

BESIDE = 16  # rows
AT_ONCE = 1024  # rows that are rounded at a time, to take little memory; ours
SMALLEST = np.float32(1e-30)  # instead of nothing, to divide by


def to_int8(weight_MK: Array) -> Matrix:
    """Keep a matrix in whole numbers up to 127, with what one of them is worth in each row.

    What is no number becomes any, but what it is worth is none, and every product with its row.
    """
    rows, width = weight_MK.shape
    blocks, fours = -(-rows // BESIDE), -(-width // 4)
    whole = np.zeros((blocks, fours, BESIDE, 4), np.int8)
    scale_M = np.ones(blocks * BESIDE, np.float32)
    zero_M = np.zeros(blocks * BESIDE, np.int32)
    for at in range(0, rows, AT_ONCE):
        part = widened(weight_MK[at : at + AT_ONCE])
        scale = np.maximum(np.abs(part).max(1), SMALLEST) / np.float32(127)
        with np.errstate(invalid="ignore"):
            rounded = np.rint(part / scale[:, None]).astype(np.int8)
        scale_M[at : at + len(part)] = scale
        zero_M[at : at + len(part)] = rounded.sum(1, dtype=np.int32) * 128
        short = (0, -len(part) % BESIDE), (0, 4 * fours - width)
        filled = np.pad(rounded, short).reshape(-1, BESIDE, fours, 4)
        whole[at // BESIDE :][: len(filled)] = filled.swapaxes(1, 2)
    return Matrix(whole, rows, width, scale_M, zero_M)
