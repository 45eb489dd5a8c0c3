"""What the attention kernel takes, and one sentence for each thing that it does not.

The library itself checks nothing: a wrong pointer there is a wrong result or a crash.
Nothing here reads a tensor's values on a GPU, which would wait for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_cli.kernels.library import DTYPES, HEAD_SIZES

MOST_BLOCKS = 65_535  # of a CUDA grid's second and third axis
MOST_POSITIONS = 64 * MOST_BLOCKS  # the smallest blocks, of the backward, have 64


def check(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None = None) -> None:
    """Raise ValueError for arguments that the kernel cannot take."""
    check_shapes(q, k, v)
    for x in (k, v):
        if x.dtype != q.dtype or x.device != q.device:
            kinds = f"{q.dtype} on {q.device} and {x.dtype} on {x.device}"
            raise ValueError(f"q, k, v must be of one dtype and on one device, not {kinds}")
    if q.dtype not in DTYPES:
        raise ValueError(f"q, k, v must be torch.bfloat16 or torch.float16, not {q.dtype}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not movable(x):
            raise ValueError(
                f"{name} must start at a multiple of 16 bytes, its last axis contiguous and its "
                f"other strides multiples of 8 elements, not {x.stride()}"
            )
    if bounds is not None:
        check_bounds(bounds, q)


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError for sizes that do not agree, or that the kernel is not made for."""
    if q.dim() != 4 or k.shape != v.shape or _without_heads(q) != _without_heads(k):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(
            "q, k, v must share one shape (batch, heads, length, d), but for the heads of q, "
            f"not {shapes}"
        )
    if q.shape[-1] not in HEAD_SIZES:
        raise ValueError(f"d must be 64 or 128, not {q.shape[-1]}")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"batch, heads and length must be at least 1, not {tuple(q.shape[:3])}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(
            f"the heads of q must be a multiple of those of k and v, not {q.shape[1]} "
            f"and {k.shape[1]}"
        )
    if max(q.shape[:2]) > MOST_BLOCKS:
        raise ValueError(f"batch and heads must be at most {MOST_BLOCKS}, not {tuple(q.shape[:2])}")
    if q.shape[2] > MOST_POSITIONS:
        raise ValueError(f"length must be at most {MOST_POSITIONS}, not {q.shape[2]}")


def _without_heads(x: Tensor) -> tuple[int, ...]:
    return (*x.shape[:1], *x.shape[2:])


def check_bounds(bounds: Tensor, q: Tensor) -> None:
    """Raise ValueError for bounds that do not fit q; their values are the caller's promise."""
    shape = (2, q.shape[0], q.shape[2])
    if bounds.shape != shape:
        raise ValueError(f"bounds must be (2, batch, length), {shape}, not {tuple(bounds.shape)}")
    if bounds.dtype != torch.int32 or bounds.device != q.device:
        raise ValueError(
            f"bounds must be torch.int32 on {q.device}, not {bounds.dtype} on {bounds.device}"
        )
    if not bounds.is_contiguous():
        raise ValueError(f"bounds must be contiguous, not of strides {bounds.stride()}")


def check_results(q: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor) -> None:
    """Raise ValueError for results of the forward that are not those of q."""
    for name, x in (("out", out), ("grad_out", grad_out)):
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{name} must be like q, {_like(q)}, not {_like(x)}")
    if lse.shape != q.shape[:3] or lse.dtype != torch.float32 or lse.device != q.device:
        wanted = f"{tuple(q.shape[:3])} of torch.float32 on {q.device}"
        raise ValueError(f"lse must be {wanted}, not {_like(lse)}")


def _like(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {x.dtype} on {x.device}"


def movable(x: Tensor) -> bool:
    """Say whether every 8 elements of a row are 16 aligned bytes (cp.async moves that many).

    >>> movable(torch.zeros(1, 2, 3, 8)), movable(torch.zeros(1, 2, 3, 12))
    (True, False)
    """
    strides = [s for s, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and not any(s % 8 for s in strides)
