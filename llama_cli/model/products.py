"""Matrix products, on a CPU by oneDNN.

PyTorch multiplies fp32 on a CPU by MKL, which on processors that are not Intel's uses half of
their vector width. oneDNN, which PyTorch takes for bf16 and convolutions, uses all of it: 230
against 105 GFLOP/s on one core of a Zen 5, to the same precision. Elsewhere these are `@`.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = 4096  # of a gradient that are turned at once, so that they stay in the cache; ours


def times(a_NK: Tensor, b_MK: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Give a b', (N, M). Autograd does not see it.

    Args:
        a_NK: rows.
        b_MK: columns of the product.
        out: memory for it or for more rows, which may be used.

    >>> times(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])).tolist()
    [[11.0, 17.0]]
    """
    if _by_onednn(a_NK):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a_NK, b_MK, None, "none", [], "")
        return product
    if out is None:
        return a_NK @ b_MK.t()
    return torch.mm(a_NK, b_MK.t(), out=out[: len(a_NK)])


def plus_times(sum_NM: Tensor, a_NK: Tensor, b_MK: Tensor) -> Tensor:
    """Give sum + a b' in new memory."""
    if _by_onednn(a_NK):
        return times(a_NK, b_MK).add_(sum_NM)
    return torch.addmm(sum_NM, a_NK, b_MK.t())


def add_times(sum_NM: Tensor, a_NK: Tensor, b_MK: Tensor) -> None:
    """Add a b' to `sum_NM`."""
    if _by_onednn(a_NK):
        sum_NM += times(a_NK, b_MK)
    else:
        sum_NM.addmm_(a_NK, b_MK.t())


def add_outer(sum_MK: Tensor, a_NM: Tensor, b_NK: Tensor, *, first: bool) -> None:
    """Add a' b to `sum_MK`, which may be wider; or set it to that, if it is the `first`."""
    step = COLUMNS if a_NM.device.type == "cpu" else a_NM.shape[1]
    for start in range(0, a_NM.shape[1], step):
        part = slice(start, start + step)
        product = times(a_NM[:, part].t(), b_NK.t())
        if first:
            sum_MK[part] = product
        else:
            sum_MK[part] += product


def _by_onednn(x: Tensor) -> bool:
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and torch._C._has_mkldnn
    )
