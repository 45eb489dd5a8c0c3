"""Keys and values of the tokens already seen, allocated once.

Without it each new token would cost a pass over all earlier ones. The model appends to it
through the `Cache` protocol of `llama_cli.model.attention`.
Legend: N layers, B batch, G heads of keys and values, L length, D head width.
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
        shape = (config.layers, batch, config.key_heads, length, config.head_dim)
        self.k_NBGLD = torch.zeros(shape, device=device, dtype=dtype)
        self.v_NBGLD = torch.zeros(shape, device=device, dtype=dtype)
        self.position = 0

    @property
    def length(self) -> int:
        """Tokens there is room for."""
        return self.k_NBGLD.shape[3]

    def extend(self, layer: int, k_BGLD: Tensor, v_BGLD: Tensor) -> tuple[Tensor, Tensor]:
        """Append to `layer` and return all its keys and values; the last layer moves `position`.

        Raises:
            ValueError: there is no room left.
        """
        end = self.position + k_BGLD.shape[2]
        if end > self.length:
            raise ValueError(f"the cache has room for {self.length} tokens, not {end}")
        self.k_NBGLD[layer, :, :, self.position : end] = k_BGLD
        self.v_NBGLD[layer, :, :, self.position : end] = v_BGLD
        if layer == len(self.k_NBGLD) - 1:
            self.position = end
        return self.k_NBGLD[layer, :, :, :end], self.v_NBGLD[layer, :, :, :end]
