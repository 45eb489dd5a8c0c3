"""The causal attention of `cuda_ext` as a torch operator, forward and backward.

Two operators, `llama::causal_attention` and `llama::causal_attention_backward`, which autograd,
torch.compile, activation checkpointing and sharding see as opaque. `library` calls C, `check`
holds the arguments to what C takes, `documents` makes the bounds, `sharding` knows DTensor.
Kept for the backward: q, k, v, out and one float a row (lse); no attention weight.
Legend: B batch, H heads, G key heads, L length, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from llama_cli.kernels import sharding
from llama_cli.kernels.check import check, check_results, movable
from llama_cli.kernels.library import run


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bounds: Tensor | None = None,
    deterministic: bool = True,
) -> Tensor:
    """Softmax(q k' / sqrt(D)) v over earlier positions, in memory linear in length.

    Args:
        q: (B, H, L, D), bf16 or fp16 on a GPU; D is 64 or 128, the last axis contiguous, other
            strides multiples of 8 elements.
        k, v: (B, G, L, D), otherwise as q. G divides H, and head h reads key head h // (H / G).
        bounds: (2, B, L) int32 of `documents`: documents that do not see each other;
            None where a row is one document.
        deterministic: whether gradients are the same bits in every run. Without, the gradient
            of q is summed in whatever order the GPU comes to it: 5 products instead of 7 in
            the backward, and fp32 memory of the size of q.

    Returns:
        (B, H, L, D), same dtype, laid out in memory as (B, L, H, D). Sums are kept in fp32.

    Raises:
        ValueError: shapes, dtypes, devices or strides do not agree with the above.
        NotReadyError: the library is not built, or driver or GPU are too old for it.
    """
    sharding.register()
    out: Tensor = forward(q, k, v, bounds, deterministic)[0]
    return out


@torch.library.custom_op("llama::causal_attention", mutates_args=())
def forward(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, deterministic: bool
) -> tuple[Tensor, Tensor]:
    """Return out, like q, and lse, (B, H, L) in fp32. `deterministic` is for the backward."""
    check(q, k, v, bounds)
    out, lse = _results(q)
    run("forward", q, {"q": q, "k": k, "v": v, "out": out, "lse": lse, **_split(bounds)})
    return out, lse


@torch.library.custom_op("llama::causal_attention_backward", mutates_args=())
def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    bounds: Tensor | None,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    check(q, k, v, bounds)
    check_results(q, out, lse, grad_out)
    out, grad_out, lse = _movable(out), _movable(grad_out), lse.contiguous()
    grads: tuple[Tensor, Tensor, Tensor] = _gradients(q, k, v)
    given = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "grad_out": grad_out}
    made = dict(zip(("grad_q", "grad_k", "grad_v"), grads, strict=True))
    sums = None if deterministic else torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    room = {"delta": torch.empty_like(lse), "sums": sums}
    run("backward", q, given | made | room | _split(bounds))
    return grads


@forward.register_fake
def _results(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@backward.register_fake
def _gradients(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q), _empty(k), _empty(v)


def _empty(x: Tensor) -> Tensor:
    """Make room for a tensor like x, heads innermost but one: what a model multiplies next."""
    batch, heads, length, size = x.shape
    return x.new_empty(batch, length, heads, size).transpose(1, 2)


def _split(bounds: Tensor | None) -> dict[str, Tensor | None]:
    return {} if bounds is None else {"first": bounds[0], "end": bounds[1]}


def _movable(x: Tensor) -> Tensor:
    """Copy what lies as it pleases what follows us: the gradient of a sum has stride 0."""
    return x if movable(x) else x.contiguous()


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save what the backward reads."""
    q, k, v, bounds, ctx.deterministic = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, bounds)


def _differentiate(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Hand autograd the backward operator."""
    q, k, v, out, lse, bounds = ctx.saved_tensors
    grads = backward(q, k, v, out, lse, grad_out, bounds, ctx.deterministic)
    return (*grads, None, None)


forward.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.llama.causal_attention)
def forward_flops(q: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Count two products over the half that the mask leaves: 4 B H L^2 D / 2.

    The field's convention (Dao, 2023, section 4.1). The shape is all that is known, so packed
    documents count as one, and so does the diagonal as a half.

    >>> forward_flops((1, 2, 1024, 128))
    536870912
    """
    batch, heads, length, size = q
    return 2 * batch * heads * length**2 * size


@register_flop_formula(torch.ops.llama.causal_attention_backward)
def backward_flops(q: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Count five products, 2.5 times the forward: the recomputed scores and four gradients.

    The deterministic backward makes two of them twice; recomputation is not counted.
    """
    return forward_flops(q) * 5 // 2
