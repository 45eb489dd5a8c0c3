"""Keys of n-grams, for a whole array of items at a time.

    items     a     b     c     d
    2-grams   ab    bc    cd

The key of a gram is a polynomial of the 64-bit keys of its items, stirred so that its high and low
bits all depend on all of them. Two grams that differ share a key once in 2**64 pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = np.uint64
Keys = NDArray[np.uint64]

# odd constants of splitmix64 (Steele et al., 2014), so that every step can be undone
BASE = U64(0x9E3779B97F4A7C15)
STIR = U64(0xBF58476D1CE4E5B9)


def grams(items: Keys, n: int) -> Keys:
    """Give the key of every `n` items in a row; none if there are fewer.

    >>> ones = np.ones(3, np.uint64)
    >>> len(grams(ones, 2)), len(grams(ones, 4)), len(set(grams(ones, 2).tolist()))
    (2, 0, 1)
    """
    count = len(items) - n + 1
    if count < 1:
        return items[:0]
    keys = items[:count].copy()
    for offset in range(1, n):
        keys *= BASE
        keys += items[offset : offset + count]
    keys ^= keys >> U64(29)
    keys *= STIR
    keys ^= keys >> U64(32)
    return keys
