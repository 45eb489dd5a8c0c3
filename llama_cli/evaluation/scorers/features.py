"""A text as counted features: its words and pairs of words, and the characters of its words.

    "You fool"   words       you  fool  you_fool
                 characters  _y yo ou u_ _yo you ou_ ... _fool fool_

Character n-grams do not cross words, of which they hold the space before and after: what
scikit-learn calls `char_wb`. A feature is known by a 64-bit key, whose lowest bit tells words (0)
from characters (1); nothing is kept of what it was made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from llama_cli.overlap.grams import U64, Keys, grams

Counts = NDArray[np.int64]

WORDS = (1, 2)  # n-grams of words
CHARACTERS = (2, 3, 4, 5)  # n-grams of characters
SPACE = 32
_WORD = re.compile(r"\w+")


def features(text: str) -> tuple[Keys, Counts]:
    """Give the keys of a text's features, sorted, and how often each is there."""
    low = text.lower()
    keys = [*_of_words(_WORD.findall(low)), *_of_characters(f" {' '.join(low.split())} ")]
    found, counts = np.unique(np.concatenate(keys), return_counts=True)
    return found, counts.astype(np.int64)


def _of_words(words: Sequence[str]) -> list[Keys]:
    digests = [xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words]
    items = np.array(digests, U64)
    return [_marked(grams(items, n), n, 0) for n in WORDS]


def _of_characters(spaced: str) -> list[Keys]:
    points = np.frombuffer(spaced.encode("utf-32-le", "surrogatepass"), np.uint32)
    items = points.astype(U64) + U64(1)
    spaces = np.concatenate([[0], np.cumsum(points == SPACE)])
    found = []
    for n in CHARACTERS:
        keys = grams(items, n)
        inner = spaces[n - 1 : n - 1 + len(keys)] - spaces[1 : 1 + len(keys)]
        found.append(_marked(keys[inner == 0], n, 1))
    return found


def _marked(keys: Keys, n: int, block: int) -> Keys:
    """Tell grams of different lengths apart, and words from characters."""
    return (keys + U64(n)) << U64(1) | U64(block)
