"""Fresh problems for the tests of this folder, and their solutions by the definition.

Kept apart from what is tested: neither kernels nor bounds of ours have a part in a solution.
Legend: B batch, H heads, G key heads, L length, D head width.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.kernels import compare, definition, results

MOST_EMULATED = 192  # length; the emulation takes seconds for longer ones


def longest(device: str, length: int) -> int:
    """Return `length` on a GPU, and what can be emulated in rehearsal."""
    return length if device == "cuda" else min(length, MOST_EMULATED)


def needs_gpu(device: str) -> None:
    """Skip what only a GPU has."""
    if device != "cuda":
        pytest.skip("only a GPU has it")


def generator(device: str) -> torch.Generator:
    """Start a series of random numbers; its seed is printed, for when a test fails."""
    seed = secrets.randbits(32)
    print("seed", seed)
    return torch.Generator(device).manual_seed(seed)


def fresh(
    device: str,
    length: int,
    size: int,
    dtype: torch.dtype = torch.bfloat16,
    *,
    batch: int = 2,
    heads: int = 4,
    key_heads: int | None = None,
) -> list[Tensor]:
    """Make q, k, v and the gradient of out: (B, H or G, L, D), laid out as a model does."""
    if device != "cuda" and length > MOST_EMULATED:
        pytest.skip("too long to emulate")
    draw, shared = generator(device), key_heads or heads
    return [
        torch.randn(
            (batch, length, each, size), generator=draw, device=device, dtype=dtype
        ).transpose(1, 2)
        for each in (heads, shared, shared, heads)
    ]


def check_errors(
    attend: Callable[..., Tensor], given: list[Tensor], first: Tensor | None = None
) -> None:
    """Assert that errors are at most twice those of plain attention in the same dtype.

    `first`, (B, L), is where each position's document begins in its row.
    """
    compare(results(attend, *given), *solutions(given, first))


def solutions(
    given: list[Tensor], first: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what plain attention gives, and the same in fp64."""
    attend = partial(definition, bounds=None if first is None else first[None])
    return results(attend, *given), results(attend, *(x.double() for x in given))


def solve_by_chunks(given: list[Tensor], rows: int = 1_024) -> dict[str, Tensor]:
    """Solve in fp64, some rows of scores at a time, for lengths whose scores fit no memory."""
    q, k, v, grad_out = (x.double() for x in given)
    k, v = k.requires_grad_(), v.requires_grad_()
    grads, outs = [], []
    for start in range(0, q.shape[2], rows):
        here = slice(start, start + rows)
        mine = q[:, :, here].detach().requires_grad_()
        scores = mine @ k.mT / math.sqrt(q.shape[-1])
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(start + 1)
        outs.append(scores.masked_fill(later, -math.inf).softmax(-1) @ v)
        grads.append(torch.autograd.grad(outs[-1], (mine, k, v), grad_out[:, :, here]))
    of_q, of_k, of_v = zip(*grads, strict=True)
    whole = torch.cat([x.detach() for x in outs], 2)
    return {"out": whole, "q": torch.cat(of_q, 2), "k": sum(of_k), "v": sum(of_v)}


TILES = range(0, 16_384, 64)  # where the kernels may part a row


def every_row(*starts: int) -> Callable[[int, int], list[int]]:
    """Make the same documents in every row, where `starts` lie within it."""
    return lambda batch, length: [
        row * length + start for row in range(batch) for start in (0, *starts) if start < length
    ]


def at_random(batch: int, length: int) -> list[int]:
    """Make some twenty documents a row, some of them empty."""
    draw = generator("cpu")
    return torch.randint(batch * length, (20 * batch,), generator=draw).sort().values.tolist()


STARTS: dict[str, Callable[[int, int], list[int]]] = {
    "one a row": every_row(),
    "one token each": lambda batch, length: list(range(batch * length)),
    "one token, then the rest": every_row(1),
    "on the edges of tiles": every_row(*TILES[1:]),
    "about the edges of tiles": every_row(*(x + i for x in TILES[1:] for i in (-1, 0, 1))),
    "across the end of a row": lambda batch, length: list(
        range(0, batch * length, length // 3 + 5)
    ),
    "at random": at_random,
}


def offsets_of(kind: str, batch: int, length: int) -> list[int]:
    """Return where documents of a kind begin in the flattened batch, and its end."""
    return [0, *STARTS[kind](batch, length), batch * length]


def first_of(offsets: list[int], batch: int, length: int) -> Tensor:
    """Return (B, L): where each position's document begins in its row.

    >>> first_of([0, 1, 1, 5, 6], 2, 3).tolist()
    [[0, 1, 1], [0, 0, 2]]
    """
    begun = [start for start, end in pairwise(offsets) for _ in range(start, end)]
    rows = torch.arange(batch)[:, None] * length
    return (torch.tensor(begun).view(batch, length) - rows).clamp(min=0)
