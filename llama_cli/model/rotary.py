"""Rotary positions: pair i of a head turns by the angle position * theta^(-2i/d).

Su et al., 2021, https://arxiv.org/abs/2104.09864, section 3.2.2; LLaMA, section 2.2. The
pairs are neighbours (0,1), (2,3), ... as in the formula and in Meta's weights; others
pair i with i + d/2, which needs the rows of wq and wk permuted.

The table is made anew in each forward pass, in fp32: it is small, and a stored one would
be rounded when the model is cast to bf16. Legend: B batch, H heads, L length, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_cli.model.precision import widen

Table = tuple[Tensor, Tensor]  # cosines and sines, each (L, D / 2), fp32


def rotary_table(
    start: int, length: int, head_dim: int, theta: float, device: torch.device
) -> Table:
    """Give the cosines and sines of positions start, start + 1, ..."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device)
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)
    angles = torch.outer(positions, theta ** (-steps / head_dim))
    return angles.cos(), angles.sin()


def rotate(x_BHLD: Tensor, table: Table) -> Tensor:
    """Turn every pair of each head by its angle; same shape and dtype.

    >>> table = rotary_table(1, 1, 2, 10_000.0, torch.device("cpu"))
    >>> [round(v, 4) for v in rotate(torch.tensor([[[[1.0, 0.0]]]]), table).flatten().tolist()]
    [0.5403, 0.8415]
    """
    return turn(x_BHLD.transpose(1, 2), table).transpose(1, 2)


def turn(x_BLHD: Tensor, table: Table) -> Tensor:
    """Do the same with the axes in the order in which they lie in memory.

    A pair is a complex number, and one product of such turns it. torch.compile has no complex
    numbers; it makes as good a loop of the formula.
    """
    cos, sin = (t[:, None] for t in table)
    wide = widen(x_BLHD)
    if torch.compiler.is_compiling():
        even, odd = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    else:
        pairs = torch.view_as_complex(wide.contiguous().view(*wide.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin))
    return turned.flatten(-2).type_as(x_BLHD)
