"""Cross-entropy of the next token, without the logits of a whole batch.

The head is most of a small model's work: 32,000 logits a token. Here they are made for a few
hundred tokens at a time, and the gradient, softmax minus one-hot, is taken from them while
they are at hand, so they are neither kept nor computed twice. Memory is linear in the
vocabulary, and the batch no longer counts. The arithmetic is that of `cross_entropy` in fp32;
products are in the dtype of the states.

Where tensor ranks share the head, each has the logits of its part of the vocabulary; they tell
each other the largest logit of a token, the sum of the exponentials, and the target's logit
(Shoeybi et al., 2019, section 3).
Legend: N tokens, R of them, d width, V rows of the head on this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llama_cli.model.exchange import ALONE, Exchange
from llama_cli.model.precision import product_dtype, widen
from llama_cli.model.products import add_outer, times
from llama_cli.model.transformer import Transformer

ROWS = 512  # tokens whose logits exist at once, in bf16; ours, by measurement
CACHED_ROWS = 32  # of which a CPU makes the softmax at once: 4 MB stay in its cache; ours


class Objective(nn.Module):
    """A model and its loss as one module: what is compiled, sharded and called in training."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self._spare: list[Tensor] = []
        # through the head, so that FSDP, which shards it by itself, has its weight there
        setattr(model.output, "loss", partial(_loss_of, model, self._spare))  # noqa: B010 (no field of Linear)

    def forward(
        self, tokens_BL: Tensor, targets_BL: Tensor, count: Tensor, bounds: Tensor | None = None
    ) -> Tensor:
        """Give the losses of all targets, added up and divided by `count`."""
        states_BLd = self.model.states(tokens_BL, bounds=bounds)
        loss: Tensor = self.model.output.loss(states_BLd, targets_BL, count)  # type: ignore[operator]
        return loss

    def reuse_gradient(self) -> None:
        """Make the next gradient of the head in the memory of this one, which nobody needs more.

        Memory that is new to the process costs a CPU more than what is computed in it.
        """
        gradient = self.model.output.weight.grad
        if gradient is not None and gradient.device.type == "cpu":
            self._spare[:] = [gradient]


def _loss_of(
    model: Transformer,
    spare: list[Tensor],
    states_BLd: Tensor,
    targets_BL: Tensor,
    count: Tensor,
) -> Tensor:
    exchange = model.exchange
    return head_loss(
        states_BLd.flatten(0, 1),
        exchange.local(model.output.weight),
        targets_BL.flatten(),
        count=count,
        exchange=exchange,
        spare=spare,
    )


def head_loss(
    x_Nd: Tensor,
    weight_Vd: Tensor,
    targets_N: Tensor,
    *,
    count: Tensor | None = None,
    exchange: Exchange = ALONE,
    spare: list[Tensor] | None = None,
) -> Tensor:
    """Give the loss of predicting `targets_N` from the normalised states `x_Nd`.

    Args:
        x_Nd: of all positions, on every tensor rank.
        weight_Vd: this rank's rows of the head.
        targets_N: tokens, numbered over the whole vocabulary; below 0 they do not count.
        count: what the sum of the losses is divided by; None for N.
        exchange: the ranks that share the head. Each gets the whole loss, the gradient of its
            rows, and its part of the gradient of the states.
        spare: memory for the gradient of the head, which is taken out.
    """
    if count is None:
        count = torch.tensor(len(x_Nd), device=x_Nd.device)
    x_Nd = x_Nd.to(product_dtype(x_Nd))
    if not torch.is_grad_enabled():
        return _sum_alone(x_Nd, weight_Vd, targets_N, exchange) / count
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        x_Nd, weight_Vd, targets_N, count, exchange, spare
    )
    return loss


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy of x W' against targets; both gradients are made in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        x_Nd: Tensor,
        weight_Vd: Tensor,
        targets_N: Tensor,
        count: Tensor,
        exchange: Exchange,
        spare: list[Tensor] | None,
    ) -> Tensor:
        near, sums = weight_Vd.to(x_Nd.dtype), widen(x_Nd[:0]).dtype
        grad_x = torch.empty_like(x_Nd)
        grad_weight = spare.pop() if spare else torch.empty_like(weight_Vd, dtype=sums)
        total = torch.zeros((), device=x_Nd.device, dtype=sums)
        logits = None  # in the same memory for every part: new memory is slow to touch
        for part in _chunks(x_Nd):
            logits = times(x_Nd[part], near, out=logits)
            total += _to_gradient(logits, targets_N[part], exchange)
            grad_x[part] = times(logits, near.t())
            add_outer(grad_weight, logits, x_Nd[part], first=part.start == 0)
        ctx.gradients = grad_x, grad_weight.to(weight_Vd.dtype)
        ctx.count = count
        return total / count

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were given away: it has one backward")
        (grad_x, grad_weight), ctx.gradients = ctx.gradients, None
        scale = grad / ctx.count
        return grad_x.mul_(scale), grad_weight.mul_(scale), None, None, None, None


def _chunks(x_Nd: Tensor) -> Iterator[slice]:
    """Cut the tokens into parts whose logits take as many bytes as those of ROWS in bf16."""
    step = ROWS * torch.bfloat16.itemsize // x_Nd.element_size()
    for start in range(0, len(x_Nd), step):
        yield slice(start, start + step)


def _to_gradient(logits_NV: Tensor, targets_N: Tensor, exchange: Exchange) -> Tensor:
    """Turn logits into the gradient of the summed loss in their place; give that loss."""
    if logits_NV.device.type == "cpu" and exchange.size == 1:
        return _to_gradient_in_cache(logits_NV, targets_N)
    loss, grad = _loss_and_gradient(logits_NV, targets_N, exchange)
    if grad is not logits_NV:
        logits_NV.copy_(grad)
    return loss


def _loss_and_gradient(
    logits_NV: Tensor, targets_N: Tensor, exchange: Exchange
) -> tuple[Tensor, Tensor]:
    """Give the summed loss, and softmax minus one-hot, wide; `logits_NV` may be lost."""
    loss_N, exponentials_NV, sums_N = _losses(logits_NV, targets_N, exchange)
    sums_N = sums_N.masked_fill(targets_N < 0, torch.inf)  # what does not count has no gradient
    exponentials_NV /= sums_N[:, None]
    mine_N, column_N = _columns(targets_N, exponentials_NV.shape[1], exchange)
    rows = torch.arange(len(mine_N), device=mine_N.device)
    exponentials_NV[rows, column_N] -= mine_N.to(exponentials_NV.dtype)
    return loss_N.sum(), exponentials_NV


def _to_gradient_in_cache(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Do the same in fewer passes, on a CPU that has the whole vocabulary.

    The logarithm of the sum of the exponentials is found from the largest of the probabilities,
    which is at least 1 / V: top - log p(top).
    """
    wide_RV = torch.empty_like(logits_NV[:CACHED_ROWS], dtype=widen(logits_NV[:0]).dtype)
    total = wide_RV.new_zeros(())
    for start in range(0, len(logits_NV), CACHED_ROWS):
        part = slice(start, start + CACHED_ROWS)
        some_RV, some_R = logits_NV[part], targets_N[part]
        p_RV, absent_R = wide_RV[: len(some_R)].copy_(some_RV), some_R < 0
        right = torch.arange(len(some_R)), some_R.clamp(min=0)
        top_R, right_R = p_RV.amax(-1), p_RV[right]
        torch.softmax(p_RV, -1, out=p_RV)
        loss_R = top_R - p_RV.amax(-1).log() - right_R
        total += loss_R.masked_fill(absent_R, 0.0).sum()
        p_RV[right] -= 1
        p_RV[absent_R] = 0.0  # what does not count has no gradient
        some_RV.copy_(p_RV)
    return total


def _losses(
    logits_NV: Tensor, targets_N: Tensor, exchange: Exchange
) -> tuple[Tensor, Tensor, Tensor]:
    """Give each token's loss, this rank's exponentials, and their sums over all ranks."""
    wide = widen(logits_NV)
    wide -= exchange.largest(wide.amax(-1))[:, None]
    mine_N, column_N = _columns(targets_N, wide.shape[1], exchange)
    rows = torch.arange(len(wide), device=wide.device)
    right = wide[rows, column_N].masked_fill(~mine_N, 0.0)
    sums, right = exchange.total(torch.stack((wide.exp_().sum(-1), right)))
    return (sums.log() - right).masked_fill(targets_N < 0, 0.0), wide, sums


def _columns(targets_N: Tensor, width: int, exchange: Exchange) -> tuple[Tensor, Tensor]:
    """Say which targets are on this rank, and in which column; in any, if they are not."""
    column_N = targets_N - exchange.rank * width
    return (column_N >= 0) & (column_N < width), column_N.clamp(0, width - 1)


def _sum_alone(x_Nd: Tensor, weight_Vd: Tensor, targets_N: Tensor, exchange: Exchange) -> Tensor:
    """Give the summed loss, without gradients."""
    near = weight_Vd.to(x_Nd.dtype)
    total = torch.zeros((), device=x_Nd.device, dtype=widen(x_Nd[:0]).dtype)
    for part in _chunks(x_Nd):
        total += _losses(times(x_Nd[part], near), targets_N[part], exchange)[0].sum()
    return total
