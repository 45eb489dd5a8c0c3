"""Keys and values of the tokens already seen, each row at a position of its own.

Without them each new token would cost a pass over all earlier ones. A row has a slot; the slot
of a row that has ended is given to another, and what a prompt left there serves every later
prompt that begins alike. Legend: N layers, S slots, T places of a slot, H heads of keys and then
of values, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_cli.inference.alike import nearest
from llama_cli.model.config import ModelConfig

ROUND = 64  # places that are made at a time; ours
PLACES = 1 << 15  # that rows are well given at a time; ours: 16 of 2,048, 16 GiB for 7B in bf16
ROWS = 256  # and rows; ours
SPARE = 1  # place at the end of each slot that no row ever has (`static`)


class Cache:
    """Room for some rows, which grows where it must."""

    def __init__(
        self, config: ModelConfig, key_heads: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, 0, 0, 2 * key_heads, config.head_dim)
        self.kv_NSTHD = torch.zeros(shape, device=device, dtype=dtype)
        self.prompts: list[list[int]] = []  # of each slot: the tokens of a prompt that lie there

    @property
    def slots(self) -> int:
        """Rows there is room for."""
        return self.kv_NSTHD.shape[1]

    @property
    def length(self) -> int:
        """Places of each slot, the spare one too."""
        return self.kv_NSTHD.shape[2]

    def rows(self, length: int) -> int:
        """Say how many rows of a length are well held at a time: each takes all of it."""
        return max(1, min(ROWS, PLACES // max(1, length)))

    def grow(self, slots: int, length: int) -> None:
        """Make room for as much, at least, and keep what is there."""
        length = -(-(length + SPARE) // ROUND) * ROUND
        if slots <= self.slots and length <= self.length:
            return
        layers, held, places, *rest = self.kv_NSTHD.shape
        shape = (layers, max(slots, held), max(length, places), *rest)
        wider = self.kv_NSTHD.new_zeros(shape)
        wider[:, :held, :places] = self.kv_NSTHD
        self.kv_NSTHD = wider
        self.prompts += [[] for _ in range(shape[1] - held)]

    def write(self, layer: int, places_N: Tensor, kv_NHD: Tensor) -> None:
        """Put keys and values of tokens at `places_N`, each slot * length + position."""
        self.kv_NSTHD[layer].flatten(0, 1).index_copy_(0, places_N, kv_NHD)

    def nearest(self, ids: Sequence[int]) -> tuple[int, int]:
        """Name the slot whose prompt begins most as `ids` does, and for how many whole blocks.

        The last token is never among them: what follows it must still be computed.
        """
        return nearest(ids, self.prompts)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give a slot the first tokens of another."""
        if source != target:
            self.kv_NSTHD[:, target, :count] = self.kv_NSTHD[:, source, :count]

    def drop(self, slot: int) -> None:
        """Forget what a slot holds; its room stays."""
        self.prompts[slot] = []
