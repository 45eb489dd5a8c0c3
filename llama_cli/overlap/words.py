"""The words of a text as 64-bit keys, in which case and punctuation no longer matter.

    "Don't panic, Arthur!"   ▶   dont panic arthur   ▶   3 keys

A word is what Brown et al. (2020, https://arxiv.org/abs/2005.14165, appendix C) call a gram: "a
lowercase, whitespace delimited word with no punctuation". A word's key is a polynomial over its
bytes, so that a window of text becomes keys in a few operations on whole arrays.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator

import numpy as np

from llama_cli.overlap.grams import BASE, U64, Keys, stirred

WINDOW = 1 << 13  # characters keyed at a time; ours: arrays that stay in the processor's cache
WIDEST = 16  # bytes a character may become; ours: 12 is the most, of 3 that NFC makes of one
SPACE = 32
_MARKS = re.compile(r"[^\w\s]|_")
_DELETED = string.punctuation.encode() + bytes(
    each for each in (*range(32), 127) if not chr(each).isspace()
)
_LOWER = bytes(
    SPACE if chr(each).isspace() and each < 128 else ord(chr(each).lower()) if each < 128 else each
    for each in range(256)
)


def _powers(base: np.uint64, count: int) -> Keys:
    return np.cumprod(np.concatenate([[U64(1)], np.full(count - 1, base, U64)]), dtype=U64)


def _table() -> Keys:
    """Give each byte a number of its own whose every bit looks random; a space is 0."""
    table = stirred(np.arange(1, 257, dtype=U64) * BASE)
    table[SPACE] = 0
    return table


POWERS = _powers(BASE, WIDEST * WINDOW)
UNDONE = _powers(U64(pow(int(BASE), -1, 1 << 64)), WIDEST * WINDOW)  # POWERS * UNDONE is 1
TABLE = _table()


def plain(text: str) -> bytes:
    """Lower the case, drop what is no letter, digit or space, and make every space one kind.

    >>> plain("Don't\\nPANIC—Arthur!")
    b'dont panicarthur'
    """
    if not text.isascii():
        lowered = unicodedata.normalize("NFC", text).lower()
        text = " ".join(_MARKS.sub("", lowered).split())
    return text.encode("utf-8", "surrogatepass").translate(_LOWER, _DELETED)


def words(text: str) -> Keys:
    """Give the key of each word.

    >>> bool((words("Don't panic!") == words("dont  PANIC")).all())
    True
    """
    found = [_keyed(plain(window)) for window in _windows(text)]
    return found[0] if len(found) == 1 else np.concatenate([np.empty(0, U64), *found])


def _windows(text: str) -> Iterator[str]:
    """Cut at spaces; a word longer than a window is cut as well."""
    start = 0
    while start < len(text):
        end = start + WINDOW
        if end < len(text):
            space = max(text.rfind(each, start, end) for each in " \n")
            end = space if space > start else end
        yield text[start:end]
        start = end


def _keyed(window: bytes) -> Keys:
    letters = np.frombuffer(window, np.uint8)
    solid = letters != SPACE
    begins = solid.copy()
    begins[1:] &= ~solid[:-1]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.empty(0, U64)
    sums = np.add.reduceat(TABLE[letters] * POWERS[: len(letters)], starts)
    return stirred(sums * UNDONE[starts])
