"""Keys of n-grams, for a whole array of items at a time.

    items     a     b     c     d
    2-grams   ab    bc    cd

The key of a gram is a polynomial of the 64-bit keys of its items, stirred so that its high and low
bits all depend on all of them. Of two grams that differ, one pair in 2**64 shares a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    return next(iter(grams_of(items, [n])))


def grams_of(items: Keys, sizes: Sequence[int]) -> Iterator[Keys]:
    """Give the keys for each of several `sizes`, which rise; a longer gram goes on from a shorter.

    >>> ones = np.ones(3, np.uint64)
    >>> [len(keys) for keys in grams_of(ones, [1, 3, 9])]
    [3, 1, 0]
    """
    sums, n = items, 1
    for size in sizes:
        while n < size and len(sums) > 1:
            sums = sums[:-1] * BASE
            sums += items[n:]
            n += 1
        yield stirred(sums) if n == size else items[:0]


def stirred(sums: Keys) -> Keys:
    """Let each bit of a sum decide about all bits of its key."""
    keys = sums ^ (sums >> U64(29))
    keys *= STIR
    keys ^= keys >> U64(32)
    return keys
