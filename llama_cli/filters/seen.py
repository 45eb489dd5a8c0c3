"""A set of 64-bit keys in 10 to 14 bytes each, asked in batches.

An open-addressing table of rows of eight slots, one row a cache line. A key's row is
proportional to the key, so that a sorted batch walks the table in order and a larger table
is filled in the order of the smaller one, whose memory is given back on the way: there are
never two whole tables. Rows fill from the left; a full row goes on in the next.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

U64 = np.uint64
Keys = NDArray[np.uint64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

SLOTS = 8  # keys a row: 64 bytes, a cache line
START = 1024  # rows; ours: 64 KiB
FULL = 0.8  # of the slots; ours: 8 / 0.8 = 10 bytes a key just before growing
GROWTH = 1.4  # ours: 10 * 1.4 = 14 bytes a key just after
MOVED = 1 << 14  # rows moved at a time when growing: 1 MiB; a multiple of a page
BYTES_OF_ONES = U64(0x0101010101010101)  # times it, the top byte is the sum of all bytes


class Seen:
    """Which keys were added before."""

    def __init__(self) -> None:
        self._rows = START
        self._memory, self._table = _allocate(START)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """The memory of the table."""
        return self._table.nbytes

    def add(self, keys: Keys) -> Mask:
        """Add keys; tell for each whether it is new: not added before, nor earlier in `keys`."""
        keys = np.where(keys == 0, U64(1), keys)  # 0 marks an empty slot
        unique, first = np.unique(keys, return_index=True)
        while self._count + len(unique) > FULL * SLOTS * self._rows:
            self._grow()
        new = np.zeros(len(keys), bool)
        new[first] = self._insert(unique)
        return new

    def _insert(self, keys: Keys) -> Mask:
        """Insert distinct sorted keys; tell which were not there."""
        fresh = np.zeros(len(keys), bool)
        pending: Rows = np.arange(len(keys))
        rows = self._row_of(keys)
        flat = self._table.reshape(-1)
        while pending.size:
            found, used = _look(self._table[rows], keys[pending])
            pending, rows = pending[~found], rows[~found]
            slot = used[~found] + _rank(rows)
            fits = slot < SLOTS
            flat[rows[fits] * SLOTS + slot[fits]] = keys[pending[fits]]
            fresh[pending[fits]] = True
            pending, rows = pending[~fits], (rows[~fits] + 1) % self._rows
        self._count += int(fresh.sum())
        return fresh

    def _row_of(self, keys: Keys) -> Rows:
        """Scale keys to rows by their upper bits; exact to 2^32 rows, 256 GiB."""
        shift = U64(self._rows.bit_length())
        scaled = (keys >> shift) * U64(self._rows) >> (U64(64) - shift)
        return scaled.astype(np.int64)

    def _grow(self) -> None:
        memory, table = self._memory, self._table
        self._rows = int(self._rows * GROWTH)
        self._memory, self._table = _allocate(self._rows)
        self._count = 0
        for start in range(0, len(table), MOVED):
            part = table[start : start + MOVED]
            self._insert(np.sort(part[part != 0]))
            memory.madvise(mmap.MADV_DONTNEED, part.nbytes // len(part) * start, part.nbytes)


def _allocate(rows: int) -> tuple[mmap.mmap, Keys]:
    memory = mmap.mmap(-1, rows * SLOTS * 8)  # zeros; pages come as they are touched
    return memory, np.frombuffer(memory, U64).reshape(rows, SLOTS)


def _look(table_rows: Keys, keys: Keys) -> tuple[Mask, Rows]:
    """Tell whether each key is in its row, and how many slots of the row are used."""
    found = (table_rows == keys[:, None]).view(U64).reshape(-1) != 0
    ones = (table_rows != 0).view(U64).reshape(-1)  # eight booleans as one integer
    return found, (ones * BYTES_OF_ONES >> U64(56)).astype(np.int64)


def _rank(rows: Rows) -> Rows:
    """Number the keys that want the same row; equal rows stand together.

    >>> _rank(np.array([4, 4, 7, 7, 7])).tolist()
    [0, 1, 0, 1, 2]
    """
    at = np.arange(len(rows))
    starts = np.ones(len(rows), bool)
    starts[1:] = rows[1:] != rows[:-1]
    return at - np.maximum.accumulate(np.where(starts, at, 0))
