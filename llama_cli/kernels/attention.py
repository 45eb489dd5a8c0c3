"""Causal attention, on whichever backend is present.

LLaMA, section 2.4, uses an attention that never stores the score matrix and never
computes the half that the mask hides. `reference` is the definition that every backend is
tested against; `sdpa` is PyTorch's own fused one, the choice of `auto`; `cuda` is ours
(cuda_ext), on a GPU, if it was built; `xformers` is the baseline of the paper's days, on a
GPU, if it is installed.
Legend: B batch, H heads, L queries, T keys (L, and those before them), D head width.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from llama_cli.errors import NotReadyError, UsageError
from llama_cli.kernels import extension

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

BACKENDS = ("auto", "cuda", "sdpa", "xformers", "reference")


def hidden_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Mark the scores to hide: the L queries are the last of the T positions.

    >>> hidden_mask(2, 3, torch.device("cpu")).int().tolist()
    [[0, 0, 1], [0, 0, 0]]
    """
    whole = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return whole.triu(keys - queries + 1)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by its definition. Memory grows with length squared.

    >>> one = torch.ones(1, 1, 3, 2)
    >>> reference(one, one, torch.arange(6.0).view(1, 1, 3, 2))[0, 0].tolist()
    [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    """
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    hidden = hidden_mask(q.shape[-2], k.shape[-2], q.device)
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v.float()).to(v.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention by PyTorch's fused kernels."""
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == keys:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = None if queries == 1 else ~hidden_mask(queries, keys, q.device)
    return scaled_dot_product_attention(q, k, v, attn_mask=seen)


def xformers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # pragma: no cover (gpu)
    """Causal attention by xformers, which wants (B, L, H, D)."""
    from xformers.ops import LowerTriangularMask, memory_efficient_attention

    turned = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = memory_efficient_attention(*turned, attn_bias=LowerTriangularMask())
    return out.transpose(1, 2)


ATTEND: dict[str, Attend] = {
    "cuda": extension.causal_attention,
    "sdpa": sdpa,
    "xformers": xformers,
    "reference": reference,
}


def backend(device: str, dtype: torch.dtype, asked: str | None = None) -> str:
    """Name what will run on `device` ("cpu", "cuda") in `dtype`.

    `asked`, or else LLAMA_TRAIN_ATTENTION, overrides the choice. A backend that is asked for
    by name and cannot run is an error, never a silent fallback.

    Raises:
        UsageError: no backend has that name.
        NotReadyError: the backend is not built, not installed, or not for this device.
    """
    name = asked or os.environ.get("LLAMA_TRAIN_ATTENTION") or "auto"
    if name not in BACKENDS:
        raise UsageError(f"attention is one of {', '.join(BACKENDS)}, not '{name}'")
    missing = _missing(name, device, dtype)
    if missing:
        raise NotReadyError(f"attention backend '{name}' {missing[0]}", hint=missing[1])
    return "sdpa" if name == "auto" else name


def _missing(name: str, device: str, dtype: torch.dtype) -> tuple[str, str] | None:
    """Say why `name` cannot run, and the cure."""
    if name == "cuda":
        reason = extension.available(device)
        return (reason, extension.INSTEAD) if reason else None
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        return "is not installed", "pip install 'llama[xformers]'"
    if name == "xformers" and device != "cuda":
        return f"does not run on a {device}", "llama train --attention sdpa"
    return None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, asked: str | None = None) -> Tensor:
    """Softmax(q k' / sqrt(D)) v over earlier positions.

    Args:
        q: (B, H, L, D); its L positions are the last of the T that k and v hold.
        k, v: (B, H, T, D), of q's dtype and device; T >= L.
        asked: a backend by name; None lets `backend` choose.

    Returns:
        (B, H, L, D), same dtype. Backends other than `reference` and `sdpa` are written
        for training, where L = T; `sdpa` stands in for them where a cache makes T > L.

    Raises:
        ValueError: the shapes do not agree with the above.
        NotReadyError: a backend asked for by name cannot run.
    """
    if k.shape != v.shape or q.dim() != 4 or q.shape[-2] > k.shape[-2]:
        raise ValueError(
            "q must be (batch, heads, length, d) and k, v alike with at least its length, "
            f"not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    name = backend(q.device.type, q.dtype, asked)
    if q.shape != k.shape and name != "reference":
        name = "sdpa"
    return ATTEND[name](q, k, v)
