"""Keys and values in pages of 16 places, as the processor's kernel reads them.

A row is a list of pages. Rows that begin alike have the same pages; the one in which they part is
copied. So a beginning of 2,000 tokens is held once, whatever begins with it, and room is made a
page at a time as rows grow. Kwon et al., 2023, https://arxiv.org/abs/2309.06180.
Legend: S slots, P pages of a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_cli.inference.alike import nearest
from llama_cli.kernels.host import PAGE, Floats, address
from llama_cli.model.config import ModelConfig

CHUNK = 64 << 20  # bytes that are asked of the system at a time; ours
ROWS = 256  # ours
PADDED = 16  # numbers to which a head's values are filled up, cuda_ext/host/network.h


class Pages:
    """Room for some rows."""

    def __init__(self, config: ModelConfig) -> None:
        width = config.head_dim + -(-config.head_dim // PADDED) * PADDED
        self.floats = config.layers * config.key_heads * PAGE * width  # of a page
        self.table_SP = np.zeros((0, 0), np.int64)  # addresses
        self.prompts: list[list[int]] = []
        self._own: list[list[int]] = []  # of each slot, the numbers of its pages
        self._users: list[int] = []  # of each page
        self._free: list[int] = []
        self._at: list[Floats] = []  # of each page, its memory

    @property
    def slots(self) -> int:
        """Rows there is room for."""
        return len(self._own)

    @property
    def length(self) -> int:
        """Tokens of each row that can be kept account of."""
        return self.table_SP.shape[1] * PAGE

    @property
    def bytes(self) -> int:
        """Memory that has been asked for."""
        return 4 * self.floats * len(self._at)

    def rows(self, length: int) -> int:
        """Say how many rows are well held at a time, of any length: what is shared is held once."""
        return ROWS

    def grow(self, slots: int, length: int) -> None:
        """Prepare for as much, at least. Memory is taken as places are filled."""
        if slots <= self.slots and length <= self.length:
            return
        held, pages = self.table_SP.shape
        wider = np.zeros((max(slots, held), max(-(-length // PAGE), pages)), np.int64)
        wider[:held, :pages] = self.table_SP
        self.table_SP = wider
        self.prompts += [[] for _ in range(len(wider) - held)]
        self._own += [[] for _ in range(len(wider) - held)]

    def nearest(self, ids: Sequence[int]) -> tuple[int, int]:
        """Name the slot whose prompt begins most as `ids` does, and for how many whole blocks.

        The last token is never among them: what follows it must still be computed.
        """
        return nearest(ids, self.prompts)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give a slot the first tokens of another: whole pages are shared."""
        if source == target:
            return
        self.drop(target)
        whole, rest = divmod(count, PAGE)
        for page in self._own[source][:whole]:
            self._users[page] += 1
            self._put(target, page)
        if rest:
            self._put(target, self._copied(self._own[source][whole]))

    def drop(self, slot: int) -> None:
        """Forget what a slot holds."""
        for page in self._own[slot]:
            self._leave(page)
        self._own[slot] = []
        self.prompts[slot] = []

    def fill(self, slot: int, start: int, end: int) -> None:
        """Make room for a row's places from `start` to `end`, and let what others share be."""
        own, first = self._own[slot], start // PAGE
        while own and len(own) > -(-end // PAGE):
            self._leave(own.pop())
        for index in range(first, len(own)):
            page = own[index]
            if self._users[page] > 1:
                own[index] = self._copied(page)
                self._leave(page)
                self._point(slot, index)
        while len(own) < -(-end // PAGE):
            self._put(slot, self._new())

    def _put(self, slot: int, page: int) -> None:
        self._own[slot].append(page)
        self._point(slot, len(self._own[slot]) - 1)

    def _point(self, slot: int, index: int) -> None:
        self.table_SP[slot, index] = address(self._at[self._own[slot][index]])

    def _copied(self, page: int) -> int:
        made = self._new()
        self._at[made][:] = self._at[page]
        return made

    def _leave(self, page: int) -> None:
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    def _new(self) -> int:
        if not self._free:
            count = max(1, CHUNK // (4 * self.floats))
            zeros = np.zeros((count, self.floats), np.float32)  # of the system: untouched, none yet
            self._free += range(len(self._at) + count - 1, len(self._at) - 1, -1)
            self._at += [*zeros]
            self._users += [0] * count
        page = self._free.pop()
        self._users[page] = 1
        return page
