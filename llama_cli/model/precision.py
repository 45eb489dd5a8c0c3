"""In which dtype what is computed: products in the narrow one, sums and norms in a wide one.

Under torch.autocast weights stay fp32, but what flows between the layers is in the dtype of the
products, bf16: half the memory, half the traffic. Sums over it are taken in fp32. Without
autocast everything stays in the dtype it comes in, fp64 too.
"""

from __future__ import annotations

import torch
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)


def widen(x: Tensor) -> Tensor:
    """Give `x` in a dtype in which sums keep their digits: fp32 for bf16 and fp16.

    >>> [widen(torch.ones(1, dtype=d)).dtype for d in (torch.bfloat16, torch.float64)]
    [torch.float32, torch.float64]
    """
    return x.float() if x.dtype in NARROW else x


def product_dtype(x: Tensor) -> torch.dtype:
    """Name the dtype in which `x` is multiplied: autocast's, or its own."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype
