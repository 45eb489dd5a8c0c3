"""Keys and values of the tokens already seen, allocated once.

Without it each new token would cost a pass over all earlier ones. The model appends to it
through the `Cache` protocol of `llama_cli.model.attention`.
Legend: N layers, B batch, H heads, L length, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_cli.model.config import ModelConfig


class KVCache:
    """Room for `length` tokens of `batch` rows; `position` tells how many are held."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch: int,
        length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.layers, batch, config.heads, length, config.head_dim)
        self.k_NBHLD = torch.zeros(shape, device=device, dtype=dtype)
        self.v_NBHLD = torch.zeros(shape, device=device, dtype=dtype)
        self.position = 0

    @property
    def length(self) -> int:
        """Tokens there is room for."""
        return self.k_NBHLD.shape[3]

    def extend(self, layer: int, k_BHLD: Tensor, v_BHLD: Tensor) -> tuple[Tensor, Tensor]:
        """Append to `layer` and return all its keys and values; the last layer moves `position`.

        Raises:
            ValueError: there is no room left.
        """
        end = self.position + k_BHLD.shape[2]
        if end > self.length:
            raise ValueError(f"the cache has room for {self.length} tokens, not {end}")
        self.k_NBHLD[layer, :, :, self.position : end] = k_BHLD
        self.v_NBHLD[layer, :, :, self.position : end] = v_BHLD
        if layer == len(self.k_NBHLD) - 1:
            self.position = end
        return self.k_NBHLD[layer, :, :, :end], self.v_NBHLD[layer, :, :, :end]
