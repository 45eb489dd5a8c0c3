"""What numbers are kept in, by the names that safetensors has for it, as arrays and as tensors.

NumPy has no bfloat16: an array of such is of its bits, in uint16, and no array of weights is of
uint16 otherwise. PyTorch is imported only to speak of its own dtypes: it takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    import torch

DType = Literal["F64", "F32", "BF16", "F16"]
DTYPES: tuple[DType, ...] = get_args(DType)
Array = NDArray[Any]

BYTES: Mapping[DType, int] = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
ARRAYS: Mapping[DType, type] = {
    "F64": np.float64,
    "F32": np.float32,
    "BF16": np.uint16,
    "F16": np.float16,
}
TORCH_NAMES: Mapping[DType, str] = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}
AT_ONCE = 1 << 20  # numbers that are made wider at a time, to take little memory; ours
NAN = 0x7FC0  # one of bfloat16's


def torch_dtype(name: DType) -> torch.dtype:
    """Give PyTorch's dtype."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return found


def named(dtype: torch.dtype) -> DType | None:
    """Name a dtype of PyTorch's; None for one that no weights of ours have."""
    theirs = str(dtype).removeprefix("torch.")
    return next((name for name in DTYPES if TORCH_NAMES[name] == theirs), None)


def dtype_of(array: Array) -> DType:
    """Name the dtype of an array of weights."""
    return next(name for name in DTYPES if array.dtype == ARRAYS[name])


def as_array(tensor: torch.Tensor) -> Array:
    """See a tensor of weights, on the CPU, as an array; nothing is copied."""
    import torch

    bits = tensor.dtype == torch.bfloat16
    plain = tensor.detach().resolve_neg()  # as a parameter that was saved is not, nor a view of -x
    return plain.view(torch.int16).numpy().view(np.uint16) if bits else plain.numpy()


def widened(array: Array) -> Array:
    """Give weights in fp32; themselves, if that is what they are in.

    >>> widened(np.array([0x3FC0], np.uint16)).tolist()  # the upper half of 1.5's bits
    [1.5]
    """
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return _cast(array, np.float32)


def converted(array: Array, wanted: DType) -> Array:
    """Give weights in another dtype, rounded to the nearest, to the even one of two."""
    if dtype_of(array) == wanted:
        return array
    made: Array = np.empty(array.shape, ARRAYS[wanted])
    for part in _parts(array.shape):
        wide = widened(array[part])
        made[part] = _shortened(wide) if wanted == "BF16" else _cast(wide, made.dtype)
    return made


def _parts(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, AT_ONCE // max(1, int(np.prod(shape[1:]))))
    return (slice(at, at + rows) for at in range(0, shape[0], rows))


def _cast(array: Array, dtype: DTypeLike) -> Array:
    # what is too large is infinite there, and one kind of what is no number becomes another
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def _shortened(wide: Array) -> Array:
    """Round fp32 to bfloat16, which keeps the upper half of its bits."""
    bits = np.ascontiguousarray(wide).view(np.uint32)
    nearest = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(wide), np.uint16(NAN), nearest)
