"""What a weight does to rows of activations, laid out as decoding reads it best.

A row's result depends on that row only, to the last bit, whatever rows are beside it and however
many threads there are. In fp32 on a CPU that is oneDNN's doing, for two rows or more (`network`
never sends one): it sums each number in the same order. In int8 sums are of whole numbers, and
the factor between those and a row's real values is the row's own.
Legend: N rows, K width of the input, M width of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from llama_cli.errors import NotReadyError

Product = Callable[[Tensor], Tensor]  # (N, K) to (N, M)

ALIASED = 1024  # columns: at multiples of so many, a column's numbers meet in one set of the cache
AT_ONCE = 1024  # rows that are rounded at a time, to take little memory; ours
SMALLEST = 1e-30  # instead of nothing, to divide by
SMALL = 500_000  # numbers of a matrix that is not packed; ours: packed, 12 us more a product
ZERO = 128  # what stands for zero, where activations are kept without a sign
TINY, HALF = torch.tensor(SMALLEST), torch.tensor(ZERO + 0.5)  # the half rounds what is cut off
BITS = (127, 63)  # largest activation, and where sums of two products are kept in 16 bits


def laid_out(weight_MK: Tensor) -> Tensor:
    """Store a matrix as its product is quickest: on a CPU, mostly, column by column.

    With one row that is 2.4 times as quick as row by row; the values are the same.
    """
    if weight_MK.device.type != "cpu" or len(weight_MK) % ALIASED == 0:
        return weight_MK.contiguous()
    return weight_MK.t().contiguous().t()


@dataclass(frozen=True, slots=True)
class Dense:
    """A product with a matrix as it is, as PyTorch does it."""

    weight_MK: Tensor

    def __call__(self, x_NK: Tensor) -> Tensor:
        return linear(x_NK, self.weight_MK)


def dense(weight_MK: Tensor) -> Product:
    """Multiply by a matrix as it is."""
    if weight_MK.dtype != torch.float32 or weight_MK.device.type != "cpu" or not onednn():
        return Dense(weight_MK)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x_NK: multiply(x_NK, weight_MK, None, "none", [], "")


def add(product: Product, y_NM: Tensor, x_NK: Tensor) -> None:
    """Add a product to what is there: in the product itself where it can, a kernel less."""
    if isinstance(product, Dense):
        y_NM.addmm_(x_NK, product.weight_MK.t())
    else:
        y_NM.add_(product(x_NK))


def int8(weight_MK: Tensor) -> Product:
    """Multiply by a matrix in eight bits: a factor for each output, and for each row of input.

    On a GPU the weights alone are in eight bits: half of bf16's memory, and no quicker.

    Raises:
        NotReadyError: for a CPU this PyTorch has no oneDNN.
    """
    if weight_MK.device.type != "cpu":
        return widened(weight_MK)
    if not onednn():
        raise NotReadyError("int8 needs a PyTorch with oneDNN", hint="llama generate --dtype bf16")
    whole_MK, scale_M = _whole(weight_MK)
    return (_small if whole_MK.numel() < SMALL else _packed)(whole_MK, scale_M)


def widened(weight_MK: Tensor) -> Product:
    """Multiply by a matrix in eight bits that is as wide as the activations when it is used."""
    whole_MK, scale_M = _whole(weight_MK)

    def product(x_NK: Tensor) -> Tensor:
        return linear(x_NK, whole_MK.to(x_NK.dtype)).mul_(scale_M)

    return product


def _small(whole_MK: Tensor, scale_M: Tensor) -> Product:
    """Multiply by a matrix that is quicker to read than to find how it was packed."""
    whole_KM, share = whole_MK.t(), 1 / _largest()

    def product(x_NK: Tensor) -> Tensor:
        factor_N1 = torch.add(TINY, x_NK.abs().amax(-1, keepdim=True), alpha=share)
        rounded_NK = (x_NK / factor_N1).round_().to(torch.int8)
        return torch._int_mm(rounded_NK, whole_KM).mul(scale_M).mul_(factor_N1)

    return product


def _packed(whole_MK: Tensor, scale_M: Tensor) -> Product:
    packed = torch.ops.onednn.qlinear_prepack(whole_MK, None)
    zero_M = torch.zeros(len(scale_M), dtype=torch.int64)
    multiply, share = torch.ops.onednn.qlinear_pointwise, 1 / _largest()

    def product(x_NK: Tensor) -> Tensor:
        factor_N1 = torch.add(TINY, x_NK.abs().amax(-1, keepdim=True), alpha=share)
        rounded_NK = torch.addcdiv(HALF, x_NK, factor_N1).to(torch.uint8)
        sums_NM: Tensor = multiply(
            *(rounded_NK, 1.0, ZERO, packed, scale_M, zero_M, None, 1.0, 0, torch.float32),
            *("none", [], ""),
        )
        return sums_NM.mul_(factor_N1)

    return product


def _whole(weight_MK: Tensor) -> tuple[Tensor, Tensor]:
    """Give a matrix in whole numbers up to 127, and what one of them is worth in each row."""
    whole_MK = torch.empty(weight_MK.shape, dtype=torch.int8, device=weight_MK.device)
    scale_M = torch.empty(len(weight_MK), device=weight_MK.device)
    for at in range(0, len(weight_MK), AT_ONCE):
        rows = weight_MK[at : at + AT_ONCE].float()
        scale = rows.abs().amax(1).clamp_min_(SMALLEST).div_(127)
        whole_MK[at : at + AT_ONCE] = (rows / scale[:, None]).round_()
        scale_M[at : at + AT_ONCE] = scale
    return whole_MK, scale_M


def onednn() -> bool:
    """Say whether this PyTorch has it."""
    return bool(torch._C._has_mkldnn)


def _largest() -> int:
    """Give the largest activation of which two products fit the processor's sums."""
    return BITS[0] if torch.cpu._is_vnni_supported() else BITS[1]
