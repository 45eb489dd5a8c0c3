"""The order of a mixture, computed from its place alone: no state, no stored index.

Item k of a source with weight w is due at (k + 1/2) / w, and the stream takes items as they
fall due. At every point each source is within one item or so of its share, and any window
of the stream can be computed without what came before: a restart needs one integer.

Inside a source, the order of documents is a permutation that differs in each epoch, and so
is the order of the sequences cut from them: a Feistel network over indices (Black & Rogaway
2002, "Ciphers with arbitrary finite domains", by cycle walking), keyed by seed, source and
epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ROUNDS = 6  # ours: Luby & Rackoff 1988 prove 4 enough with ideal round functions


def due(weights: Sequence[float], time: float) -> list[int]:
    """Count the items of each source that fall due before `time`."""
    counts = []
    for weight in weights:
        count = max(0, math.ceil(weight * time - 0.5))
        while count and (count - 0.5) / weight >= time:  # rounding, by one at most
            count -= 1
        while (count + 0.5) / weight < time:
            count += 1
        counts.append(count)
    return counts


def window(weights: Sequence[float], start: int, stop: int) -> tuple[Array, Array]:
    """Give source and item number at the places `start` to `stop` of the stream.

    >>> sources, items = window([0.75, 0.25], 0, 8)
    >>> sources.tolist(), items.tolist()
    ([0, 0, 1, 0, 0, 0, 1, 0], [0, 1, 0, 2, 3, 4, 1, 5])
    """
    slack = len(weights)  # at a time t, between t - slack / 2 and t + slack / 2 items are due
    first = due(weights, max(0, start - slack))
    last = due(weights, stop + slack)
    items = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
    times = [(item + 0.5) / weight for item, weight in zip(items, weights, strict=True)]
    sources = [np.full(len(item), number) for number, item in enumerate(items)]
    source = np.concatenate(sources)
    order = np.lexsort((source, np.concatenate(times)))[start - sum(first) : stop - sum(first)]
    return source[order], np.concatenate(items)[order]


def counts(weights: Sequence[float], stop: int) -> list[int]:
    """Count the items of each source among the first `stop` of the stream."""
    before = due(weights, max(0, stop - len(weights)))
    sources, _ = window(weights, sum(before), stop)
    return [n + int((sources == number).sum()) for number, n in enumerate(before)]


def permutation(count: int, key: str) -> Array:
    """Shuffle the numbers below `count`; the same key gives the same order anywhere.

    >>> sorted(permutation(5, "0 books 1").tolist())
    [0, 1, 2, 3, 4]
    """
    return permuted(np.arange(count), count, key)


def permuted(places: Array, count: int, key: str) -> Array:
    """Tell which numbers below `count` stand at some places of the shuffled order.

    >>> permuted(np.array([3]), 5, "a")[0] == permutation(5, "a")[3]
    np.True_
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)  # bits; the network permutes 4 ** half
    keys = np.frombuffer(blake2b(key.encode(), digest_size=8 * ROUNDS).digest(), "<u8")
    order = _feistel(places.astype(np.uint64), half, keys)
    outside = np.flatnonzero(order >= count)
    while len(outside):  # walk on along the cycle until it is inside again
        order[outside] = _feistel(order[outside], half, keys)
        outside = outside[order[outside] >= count]
    return order.astype(np.int64)


def _feistel(values: Array, half: int, keys: Array) -> Array:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return left << bits | right


def _mix(values: Array) -> Array:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: Array = values ^ (values >> np.uint64(31))
    return scrambled
