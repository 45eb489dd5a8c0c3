"""Causal attention by others, beside ours in `extension`; `attention` chooses between them.

`reference` is the definition that all are tested against; `sdpa` is PyTorch's own fused one;
`xformers` is what the paper used (section 2.4), on a GPU, if it is installed. Each takes
grouped heads, where head h reads key head h // (H / G), and bounds (`documents`), where a
position sees nothing before its document begins.
Legend: B batch, H heads, G key heads, L queries, T keys (L, and those before them), D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def reference(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Causal attention by its definition. Memory grows with length squared.

    >>> one = torch.ones(1, 1, 3, 2)
    >>> reference(one, one, torch.arange(6.0).view(1, 1, 3, 2))[0, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    k, v = _widen(k, q), _widen(v, q)
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(hidden(q, k, bounds), -math.inf).softmax(-1)
    return (weights @ v.float()).to(v.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Causal attention by PyTorch's fused kernels.

    With bounds its memory grows with length squared, a byte a pair: it takes a whole mask.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    k, v = _widen(k, q), _widen(v, q)
    if queries == keys and bounds is None:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = None if queries == 1 else ~hidden(q, k, bounds)
    return scaled_dot_product_attention(q, k, v, attn_mask=seen)


def xformers(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Causal attention by xformers, which wants (B, L, H, D), or documents one after the other.

    With bounds it waits for the GPU, to read their lengths.
    """
    from xformers.ops import LowerTriangularMask, memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask

    rows = [x.transpose(1, 2) for x in (q, _widen(k, q), _widen(v, q))]
    if bounds is None:
        out: Tensor = memory_efficient_attention(*rows, attn_bias=LowerTriangularMask())
        return out.transpose(1, 2)
    flat = [x.flatten(0, 1)[None] for x in rows]
    mask = BlockDiagonalCausalMask.from_seqlens(_lengths(bounds))
    out = memory_efficient_attention(*flat, attn_bias=mask)
    return out.view_as(rows[0]).transpose(1, 2)


def _lengths(bounds: Tensor) -> list[int]:
    """List the lengths of the documents, row after row."""
    first, end = bounds.flatten(1)
    begins = first == torch.arange(bounds.shape[-1], device=bounds.device).repeat(bounds.shape[1])
    lengths: list[int] = (end - first)[begins].tolist()
    return lengths


def hidden(q: Tensor, k: Tensor, bounds: Tensor | None) -> Tensor:
    """Mark the scores to hide, (L, T), or with bounds (B, 1, L, L).

    The L queries are the last of the T positions.

    >>> hidden(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 3, 8), None).int().tolist()
    [[0, 0, 1], [0, 0, 0]]
    """
    queries, keys = q.shape[-2], k.shape[-2]
    whole = torch.ones(queries, keys, dtype=torch.bool, device=q.device)
    later = whole.triu(keys - queries + 1)
    if bounds is None:
        return later
    return later | (torch.arange(keys, device=q.device) < bounds[0, :, None, :, None])


def _widen(x: Tensor, q: Tensor) -> Tensor:
    """Give each head of q a key head of its own.

    SDPA could do without (enable_gqa), but then leaves out its memory-efficient kernel, the
    only one linear in length for fp32 on a GPU.
    """
    times = q.shape[1] // x.shape[1]
    return x if times == 1 else x.repeat_interleave(times, dim=1)
