"""What the ranks that share one layer tell each other, and nothing of how they do.

Tensor parallelism splits a layer's matrices (Shoeybi et al., 2019, section 3); sequence
parallelism splits what lies between them, norms and residuals, by positions (Korthikanti et al.,
2022, https://arxiv.org/abs/2205.05198, section 4.2.2). Between the two stand a gather of all
positions, g, and a scatter of summed ones, g-bar, which are each other's adjoint:

    x (B, L/T, d) ─ norm ─ gather ─▶ (B, L, d) ─ wq wk wv | w1 w3, by rows (heads, hidden)
                                                      ▼
    x (B, L/T, d) + scatter of sums ◀─ (B, L, d) ─ wo | w2, by columns

A model is given an `Exchange`; `llama_cli.parallel.tensor` makes one over torch.distributed, and
`ALONE` is that of a model on one device. Legend: B batch, L length, d width, T ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Pending(Protocol):
    """A tensor that is under way; other work may be done before it is waited for."""

    def wait(self) -> Tensor:
        """Give the tensor. Called once."""
        ...


class Exchange(Protocol):
    """One rank of the group that shares the layers. Every rank makes the same calls in order.

    No method but `local` is seen by autograd: `gathered` and `scattered` are, and so is what
    a hand-written backward does with the rest.
    """

    @property
    def size(self) -> int:
        """Ranks of the group, T."""
        ...

    @property
    def rank(self) -> int:
        """This one of them, from 0: it has positions and rows rank/T to (rank + 1)/T."""
        ...

    def gather(self, x: Tensor) -> Pending:
        """Begin to collect every rank's positions: (B, L/T, d) to (B, L, d)."""
        ...

    def scatter(self, y: Tensor) -> Pending:
        """Begin to sum over the ranks, each of which keeps its positions: the opposite shapes."""
        ...

    def total(self, x: Tensor) -> Tensor:
        """Sum over the ranks."""
        ...

    def largest(self, x: Tensor) -> Tensor:
        """Give the maximum over the ranks."""
        ...

    def local(self, weight: Tensor, *, shared: bool = False) -> Tensor:
        """Give this rank's part of a parameter, for autograd too.

        `shared` is for one that every rank holds whole but uses for its own positions only, as
        norms are: its gradient is summed over the ranks.
        """
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """A tensor that is here already."""

    tensor: Tensor

    def wait(self) -> Tensor:
        """Give it."""
        return self.tensor


@dataclass(frozen=True, slots=True)
class Alone:
    """The group of one rank: it has everything."""

    size: int = 1
    rank: int = 0

    def gather(self, x: Tensor) -> Done:
        """Give `x`."""
        return Done(x)

    def scatter(self, y: Tensor) -> Done:
        """Give `y`."""
        return Done(y)

    def total(self, x: Tensor) -> Tensor:
        """Give `x`."""
        return x

    def largest(self, x: Tensor) -> Tensor:
        """Give `x`."""
        return x

    def local(self, weight: Tensor, *, shared: bool = False) -> Tensor:
        """Give `weight`."""
        return weight


ALONE = Alone()


def gathered(x: Tensor, exchange: Exchange) -> Tensor:
    """Collect every rank's positions, (B, L/T, d) to (B, L, d); the gradient is scattered."""
    if exchange.size == 1:
        return x
    y: Tensor = _Gathered.apply(x, exchange)  # type: ignore[no-untyped-call]
    return y


def scattered(y: Tensor, exchange: Exchange) -> Tensor:
    """Sum over the ranks and keep own positions, (B, L, d) to (B, L/T, d); gradients gather."""
    if exchange.size == 1:
        return y
    x: Tensor = _Scattered.apply(y, exchange)  # type: ignore[no-untyped-call]
    return x


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.gather(x).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.scatter(grad.contiguous()).wait(), None


class _Scattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.scatter(y).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.gather(grad.contiguous()).wait(), None
