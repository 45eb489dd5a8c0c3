"""Attention of a row that has come far: its places in parts, which a GPU reads side by side.

A GPU has more multiprocessors than a row has heads, and one for a head would read all its places
in turn. So parts of the places are rows of a batch, and what each gives counts by the sum of its
weights: Flash-Decoding, Dao et al., 2023, https://pytorch.org/blog/flash-decoding/

    places   0 ────── 256 ────── 512 ────── 768 ────── 1024
    parts      out, sum    out, sum   out, sum   out, sum ─▶ softmax of ln sums ─▶ their mean

The operators that give those sums are not among those PyTorch promises to keep. So they are tried
once a process, and left alone where they are not as they were. Legend: C parts, G heads of keys,
L queries of each, T places, D head width.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

WORTH = 1024  # places; ours: fewer are read before parts are put together
SMALLEST = 192  # places of a part; ours
GRAIN = 64  # of which a part has a whole number: its mask begins where 16 bytes are read at once
NEAR = 0.03  # of the largest number; ours: some roundings of bf16


def parts_of(rows: int, length: int) -> int:
    """Say in how many parts the places of so many rows are read; several rows are enough as one.

    >>> [parts_of(1, length) for length in (768, 1024, 1280, 2048, 2112)]
    [1, 4, 5, 8, 11]
    >>> parts_of(2, 2048)
    1
    """
    if rows > 1 or length < WORTH:
        return 1
    return max(c for c in range(1, length // SMALLEST + 1) if length % (GRAIN * c) == 0)


def in_parts(q: Tensor, k: Tensor, v: Tensor, hidden_111T: Tensor, parts: int) -> Tensor:
    """Attend from q (1, G, L, D) to k and v (1, G, T, D), where nothing is added that hides."""
    _, heads, queries, width = q.shape
    k, v = (x[0].view(heads, parts, -1, width).transpose(0, 1) for x in (k, v))
    hidden = hidden_111T.view(parts, 1, 1, -1).expand(parts, heads, queries, -1)
    out_CGLD, total_CGL = _with_sums(q.expand(parts, -1, -1, -1), k, v, hidden)
    share_CGL = total_CGL.softmax(0)
    return (out_CGLD * share_CGL[..., None]).sum(0, keepdim=True).to(q.dtype)


def _with_sums(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Give attention, and ln of the sum of e to each score, in fp32."""
    aten, queries = torch.ops.aten, q.shape[2]
    if q.device.type == "cpu":
        kernel = aten._scaled_dot_product_flash_attention_for_cpu
        out, total = kernel(q, k, v, 0.0, False, attn_mask=hidden)
    else:
        out, total, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, hidden, True)
    return out, total[..., :queries]  # a GPU's are filled up


@cache
def works(
    device: torch.device, dtype: torch.dtype, heads: int, queries: int, width: int, parts: int = 4
) -> bool:
    """Try parts against the whole: scores rise, so parts weigh unlike, and the last is hidden."""
    draw, length = torch.Generator().manual_seed(0), parts * SMALLEST
    drawn = torch.randn(3, 1, heads, length, width, generator=draw)
    rising = torch.linspace(0.1, 2, length)[:, None]
    q, k, v = (x.to(device, dtype) for x in (drawn[0, :, :, :queries], drawn[1] * rising, drawn[2]))
    places = torch.arange(length, device=device)
    hidden = hiding(places > length - SMALLEST - 9, dtype)[None, None, None]
    try:
        found = in_parts(q, k, v, hidden, parts).float()
    except (RuntimeError, AttributeError, TypeError, ValueError):  # it is another operator now
        return False
    wanted = scaled_dot_product_attention(q, k, v, attn_mask=hidden).float()
    return bool((found - wanted).abs().max() <= NEAR * wanted.abs().max())  # NaN is not


def hiding(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Give what is added to scores: nothing, or so little where true that e to it is nothing.

    Minus infinity would do but for a part of which all is hidden: that must have numbers too.
    """
    nothing = torch.zeros(hidden.shape, device=hidden.device, dtype=dtype)
    return nothing.masked_fill_(hidden, torch.finfo(dtype).min / 2)
