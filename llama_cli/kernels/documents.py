"""Documents packed in one sequence, kept apart: a position sees its own document only.

The field hands them over as offsets into the flattened batch (`cu_seqlens`). A kernel works on
rows, so here they become, for each position, where its document begins and ends in its row.
Legend: B batch, L length, N documents.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

INTEGERS = (torch.int32, torch.int64)


def document_bounds(offsets: Tensor, batch: int, length: int) -> Tensor:
    """Say where each position's document begins in its row, and one past where it ends.

    Args:
        offsets: (N + 1,) int32 or int64, ascending from 0 to B * L: where the documents lie in
            the flattened (B, L) positions. One that crosses a row's end is cut there.
        batch, length: B and L.

    Returns:
        (2, B, L) int32, contiguous, on the device of `offsets`: first position, then end.

    Raises:
        ValueError: `offsets` is not as above. Values are looked at on a CPU only: on a GPU that
            would wait for it. There, wrong ones give wrong documents, but none without its
            own position or beyond its row, so that no kernel reads where it must not.

    >>> document_bounds(torch.tensor([0, 1, 5, 6]), 2, 3).tolist()
    [[[0, 1, 1], [0, 0, 2]], [[1, 3, 3], [2, 2, 3]]]
    """
    _check(offsets, batch, length)
    position = torch.arange(batch * length, device=offsets.device)
    offsets = offsets.to(position.dtype)
    following = torch.searchsorted(offsets, position, right=True).clamp(1, len(offsets) - 1)
    row = position // length * length
    first = offsets[following - 1].maximum(row).minimum(position)
    end = offsets[following].minimum(row + length).maximum(position + 1)
    return (torch.stack((first, end)) - row).view(2, batch, length).int()


def _check(offsets: Tensor, batch: int, length: int) -> None:
    if offsets.dim() != 1 or len(offsets) < 2 or offsets.dtype not in INTEGERS:
        raise ValueError(
            "offsets must be a list of at least 2 int32 or int64, not "
            f"{tuple(offsets.shape)} of {offsets.dtype}"
        )
    if batch < 1 or length < 1:
        raise ValueError(f"batch and length must be at least 1, not {batch} and {length}")
    if offsets.device.type == "cpu":
        _check_values(offsets.tolist(), batch * length)


def _check_values(offsets: list[int], total: int) -> None:
    if offsets[0] != 0 or offsets[-1] != total:
        raise ValueError(
            f"offsets must begin with 0 and end with batch times length, {total}, "
            f"not {offsets[0]} and {offsets[-1]}"
        )
    for before, after in pairwise(offsets):
        if after < before:
            raise ValueError(f"offsets must ascend, not go from {before} to {after}")
