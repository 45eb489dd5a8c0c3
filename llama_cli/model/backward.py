"""A layer whose backward is written by hand, so that little is kept and little computed twice.

LLaMA, section 2.4: "we reduced the amount of activations that are recomputed during the backward
pass ... we save the activations that are expensive to compute, such as the outputs of linear
layers. This is achieved by manually implementing the backward function for the transformer
layers, instead of relying on the PyTorch autograd."

Kept are the layer's input x, the rotated q and k, v, the attention's output o and lse, the residual
m between the halves, and the outputs a and b of w1 and w3: 6 d + 2 hidden a token, and less where
keys and values have fewer heads than queries. Computed again are the two norms and SwiGLU's
product. With `inputs_only` just x is kept, and the forward runs again but for its last product.

The layer, and its gradients g. A product y = W n has gn = W' gy and gW = gy n'; a residual adds.

    n = norm(x)      q = R wq n   k = R wk n   v = wv n   o = attention(q, k, v)   m = x + wo o
    n = norm(m)      a = w1 n     b = w3 n                h = silu(a) * b          y = m + w2 h

RMSNorm, n_i = w_i x_i r with r = (mean(x^2) + eps)^(-1/2), where dr/dx_j = -r^3 x_j / d:
    gw_i = sum over positions of g_i x_i r
    gx_j = r (w_j g_j - x_j r mean_i(w_i g_i x_i r))
SwiGLU, s = silu(a) = a sigmoid(a), with s' = sigmoid(a) (1 + a (1 - sigmoid(a))):
    gb = gh s       ga = gh b s'
Rotary: R turns each pair by an angle. It is orthogonal, so its adjoint turns back.
Attention: `kernels.gradient`; Dao et al., 2022, algorithm 4.

Where T ranks share the layer (`exchange`), the gathers and scatters of the backward run beside
the products that do not wait for them: the gradients of weights, which nothing further needs.
Legend: B batch, L length, N = B L positions, d width, H heads, G heads of keys and values,
D head width, T ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from llama_cli.kernels.gradient import attend, attend_backward
from llama_cli.model.config import ModelConfig
from llama_cli.model.exchange import ALONE, Exchange, Pending
from llama_cli.model.precision import product_dtype, widen
from llama_cli.model.products import add_times, plus_times, times
from llama_cli.model.rotary import Table, turn

NORM_SCALES = 2  # of each position, in fp32


def kept_bytes(config: ModelConfig, *, element: int, inputs_only: bool = False) -> int:
    """Count what a layer keeps of one token, in bytes; `element` is the size of one number.

    >>> from llama_cli.model.config import SIZES
    >>> [round(kept_bytes(SIZES["33b"], element=2, inputs_only=o) / 6656, 2) for o in (False, True)]
    [22.8, 2.0]
    """
    if inputs_only:
        return element * config.dim
    width = 4 * config.dim + 2 * config.kv_dim + 2 * config.hidden
    return element * width + 4 * (config.heads + NORM_SCALES)


@dataclass(frozen=True, slots=True)
class How:
    """What a layer is told besides its tensors."""

    head_dim: int
    eps: float
    backend: str | None
    deterministic: bool
    inputs_only: bool = False
    exchange: Exchange = ALONE


class Weights(NamedTuple):
    """A rank's part of the layer's parameters, in the order of `Layer`."""

    attention_norm: Tensor
    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


class Attended(NamedTuple):
    """What the first half keeps, x apart."""

    scale: Tensor  # r of the norm, (B, L/T, 1)
    q: Tensor  # (B, L, H, D), as o
    k: Tensor  # (B, L, G, D), as v
    v: Tensor
    o: Tensor
    lse: Tensor | None


class Fed(NamedTuple):
    """What the second half keeps, m apart."""

    scale: Tensor
    a: Tensor  # (N, hidden / T), as b
    b: Tensor


def run_layer(
    x_BLd: Tensor, weights: Weights, table: Table, bounds: Tensor | None, how: How
) -> Tensor:
    """Run one layer, (B, L/T, d) to the same; `weights` as autograd knows them."""
    y_BLd: Tensor = _Layer.apply(  # type: ignore[no-untyped-call]
        x_BLd.to(product_dtype(x_BLd)), *table, bounds, how, *weights
    )
    return y_BLd


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        bounds: Tensor | None,
        how: How,
        *weights: Tensor,
    ) -> Tensor:
        w = Weights(*weights)
        m, attended = _attend(x, w, (cos, sin), bounds, how)
        y, fed = _feed(m, w, how)
        kept = () if how.inputs_only else (*attended, m, *fed)
        ctx.how = how
        ctx.save_for_backward(x, cos, sin, bounds, *weights, *kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        how: How = ctx.how
        x, cos, sin, bounds, *rest = ctx.saved_tensors
        w, kept = Weights(*rest[:9]), rest[9:]
        if how.inputs_only:
            x = _later(x, grad)
            m, attended = _attend(x, w, (cos, sin), bounds, how)
            fed = _halves(m, w, how)
        else:
            attended, m, fed = Attended(*kept[:6]), kept[6], Fed(*kept[7:])
        gm, whole, *second = _feed_backward(grad, m, fed, w, how)
        gx, *first = _attend_backward(gm, whole, x, attended, w, (cos, sin), bounds, how)
        return (gx, None, None, None, None, *first, *second)


def _attend(
    x: Tensor, w: Weights, table: Table, bounds: Tensor | None, how: How
) -> tuple[Tensor, Attended]:
    """Give m = x + wo o, and what to keep."""
    n, scale = normalise(x, w.attention_norm, how.eps)
    n = how.exchange.gather(n).wait()
    q, k, v = (_heads(_times(n, weight), n, how) for weight in (w.wq, w.wk, w.wv))
    q, k = turn(q, table), turn(k, table)
    o, lse = attend(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        bounds,
        deterministic=how.deterministic,
        asked=how.backend,
    )
    o = o.transpose(1, 2)
    return _add_times(x, o.flatten(0, 1).flatten(1), w.wo, how), Attended(scale, q, k, v, o, lse)


def _feed(m: Tensor, w: Weights, how: How) -> tuple[Tensor, Fed]:
    """Give y = m + w2 h, and what to keep."""
    fed = _halves(m, w, how)
    return _add_times(m, silu(fed.a).mul_(fed.b), w.w2, how), fed


def _halves(m: Tensor, w: Weights, how: How) -> Fed:
    n, scale = normalise(m, w.ffn_norm, how.eps)
    n = how.exchange.gather(n).wait()
    return Fed(scale, _times(n, w.w1), _times(n, w.w3))


def _feed_backward(
    grad: Tensor, m: Tensor, fed: Fed, w: Weights, how: How
) -> tuple[Tensor, Pending, Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of m (both ways of it), that gathered, and of ffn_norm, w1, w2, w3."""
    exchange = how.exchange
    whole = exchange.gather(grad.contiguous())
    n = exchange.gather(renormalise(_later(m, grad), fed.scale, w.ffn_norm))
    s = silu(_later(fed.a, grad))
    h = s * fed.b
    gy = whole.wait().flatten(0, 1)
    gw2 = _weight_gradient(gy, h, w.w2)
    ga, gb = swiglu_backward(_times_back(gy, w.w2), fed, s)
    gn = _partial(_times_back(ga, w.w1, gb, w.w3), grad, how)
    n_Nd = n.wait().flatten(0, 1)
    gw1 = _weight_gradient(ga, n_Nd, w.w1)
    gm, gnorm = normalise_backward(gn.wait(), m, fed.scale, w.ffn_norm, grad)
    whole = exchange.gather(gm)
    gw3 = _weight_gradient(gb, n_Nd, w.w3)
    return gm, whole, gnorm, gw1, gw2, gw3


def _attend_backward(
    grad: Tensor,
    whole: Pending,
    x: Tensor,
    kept: Attended,
    w: Weights,
    table: Table,
    bounds: Tensor | None,
    how: How,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of x (both ways of it) and of attention_norm, wq, wk, wv, wo."""
    n = how.exchange.gather(renormalise(_later(x, grad), kept.scale, w.attention_norm))
    gm = whole.wait().flatten(0, 1)
    gwo = _weight_gradient(gm, kept.o.flatten(0, 1).flatten(1), w.wo)
    go = _times_back(gm, w.wo).view(kept.o.shape)
    q, k, v, o = (t.transpose(1, 2) for t in (kept.q, kept.k, kept.v, kept.o))
    gradients = attend_backward(
        go.transpose(1, 2),
        q,
        k,
        v,
        (o, kept.lse),
        bounds,
        deterministic=how.deterministic,
        asked=how.backend,
    )
    gq, gk, gv = (g.transpose(1, 2) for g in gradients)
    back = (table[0], -table[1])
    gq, gk, gv = (g.flatten(0, 1).flatten(1) for g in (turn(gq, back), turn(gk, back), gv))
    gn = _partial(_times_back(gq, w.wq, gk, w.wk, gv, w.wv), grad, how)
    n_Nd = n.wait().flatten(0, 1)
    gwq, gwk, gwv = (
        _weight_gradient(g, n_Nd, weight) for g, weight in ((gq, w.wq), (gk, w.wk), (gv, w.wv))
    )
    gx, gnorm = normalise_backward(gn.wait(), x, kept.scale, w.attention_norm, grad)
    return gx, gnorm, gwq, gwk, gwv, gwo


def _later(x: Tensor, grad: Tensor) -> Tensor:
    """Give x; torch.compile is made to believe that it depends on the gradient.

    The compiler sees forward and backward as one graph. What is computed again it would find
    computed already, and keep it instead.
    """
    if not torch.compiler.is_compiling():
        return x
    some = grad.flatten()[0]
    return x + ((some == some) & (some != some)).to(x.dtype)  # 0, also of NaN


def normalise(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Give RMSNorm of x in its dtype, and its factor r, (..., 1)."""
    wide = widen(x)
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).mul_(weight).to(x.dtype), scale


def renormalise(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Give RMSNorm of x once more, knowing r."""
    return (widen(x) * scale).mul_(weight).to(x.dtype)


def normalise_backward(
    grad: Tensor, x: Tensor, scale: Tensor, weight: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the gradients of x, with `residual` added to it, and of the norm's weight."""
    unit = widen(x) * scale
    wide = widen(grad)
    gweight = (wide * unit).flatten(0, -2).sum(0)
    wide = wide * weight
    mean = (wide * unit).mean(-1, keepdim=True)
    wide = wide.addcmul_(unit, mean, value=-1).mul_(scale).add_(residual)
    return wide.to(x.dtype), gweight.to(weight.dtype)


def swiglu_backward(grad: Tensor, fed: Fed, s: Tensor) -> tuple[Tensor, Tensor]:
    """Give the gradients of a and b, from that of h, which it uses up, as it does s = silu(a)."""
    gb = s.mul_(grad)
    return torch.ops.aten.silu_backward(grad.mul_(fed.b), fed.a), gb


def _heads(x_Nd: Tensor, like: Tensor, how: How) -> Tensor:
    return x_Nd.view(*like.shape[:2], -1, how.head_dim)


def _times(n: Tensor, weight: Tensor) -> Tensor:
    """Give W n for every position, (N, out)."""
    return times(n.flatten(0, 1), weight.to(n.dtype))


def _add_times(residual: Tensor, y: Tensor, weight: Tensor, how: How) -> Tensor:
    """Give residual + W y, of this rank's positions."""
    weight = weight.to(y.dtype)
    if how.exchange.size == 1:
        return plus_times(residual.flatten(0, 1), y, weight).view(residual.shape)
    return _partial(times(y, weight), residual, how).wait() + residual


def _times_back(grad: Tensor, weight: Tensor, *more: Tensor) -> Tensor:
    """Give W' g, and add that of more pairs of g and W."""
    total = times(grad, weight.to(grad.dtype).t())
    for g, w in zip(more[::2], more[1::2], strict=True):
        add_times(total, g, w.to(g.dtype).t())
    return total


def _partial(y_Nd: Tensor, like: Tensor, how: How) -> Pending:
    """Begin to sum over the ranks what is to become as `like`."""
    return how.exchange.scatter(y_Nd.view(len(like), -1, like.shape[-1]))


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return times(grad.t(), x.t()).to(weight.dtype)
