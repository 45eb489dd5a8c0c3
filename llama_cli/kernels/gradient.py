"""Causal attention and its gradient as two plain functions, for whoever differentiates by hand.

`attention.causal_attention` is for autograd, which keeps for itself what the backward needs. Here
the caller keeps it: q, k, v, the output, and one float a row (lse) where a backend gives one. A
backend without a backward to call by itself runs its forward again, under autograd.
Legend: B batch, H heads, G key heads, L length, D head width.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

import torch
from torch import Tensor

from llama_cli.kernels import backends, extension, sharding
from llama_cli.kernels.attention import ATTEND, Attend, backend

Gradients = tuple[Tensor, Tensor, Tensor]
Kept = tuple[Tensor, Tensor | None]  # the output, (B, H, L, D), and lse, (B, H, L), or None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: Tensor | None,
    *,
    deterministic: bool,
    asked: str | None,
) -> Kept:
    """Give what `causal_attention` of as many keys as queries gives, and lse.

    Raises:
        NotReadyError: a backend asked for by name cannot run.
    """
    name = _name(q, k, asked)
    if name == "cuda":
        sharding.register()
        out, lse = extension.forward(q, k, v, bounds, deterministic)
    elif name == "cpu":
        mask = _mask(q, bounds)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, mask is None, attn_mask=mask
        )
    else:
        with torch.no_grad():
            out, lse = ATTEND[name](q, k, v, bounds), None
    return out, lse


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Kept,
    bounds: Tensor | None,
    *,
    deterministic: bool,
    asked: str | None,
) -> Gradients:
    """Give the gradients of q, k and v from that of the output and what `attend` gave."""
    name, (out, lse) = _name(q, k, asked), kept
    if lse is None:
        return _again(ATTEND[name], grad, q, k, v, bounds)
    if name == "cuda":
        gq, gk, gv = extension.backward(q, k, v, out, lse, grad, bounds, deterministic)
    else:
        mask = _mask(q, bounds)
        gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out, lse, 0.0, mask is None, attn_mask=mask
        )
    return gq, gk, gv


def _name(q: Tensor, k: Tensor, asked: str | None) -> str:
    """Name the backend; "cpu" is the one that SDPA has there."""
    name = backend(q.device, q.dtype, index(q.shape[-1]), asked)
    plain = q.device.type == "cpu" and q.shape == k.shape
    return "cpu" if name == "sdpa" and plain else name


def _mask(q: Tensor, bounds: Tensor | None) -> Tensor | None:
    """Give 0 for what is seen and -inf for the rest, (B, 1, L, L); None for one document a row."""
    if bounds is None:
        return None
    return q.new_zeros(()).masked_fill(backends.hidden(q, q, bounds), -math.inf)


def _again(
    attention: Attend, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None
) -> Gradients:
    if torch.compiler.is_compiling():  # has no `autograd.grad`, and xformers has no `vjp`
        backward: Any = torch.func.vjp(lambda q, k, v: attention(q, k, v, bounds), q, k, v)[1]
        gq, gk, gv = backward(grad)
        return gq, gk, gv
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = attention(q, k, v, bounds)
        gq, gk, gv = torch.autograd.grad(out, (q, k, v), grad)
    return gq, gk, gv
