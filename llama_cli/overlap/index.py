"""Which rows of a benchmark a document has text of.

    row 7    "a man walks into a bar and asks ..."   ▶   13-grams of words   ▶   keys ─┐
    document "... So a man walks into a bar, and ..."   ▶   13-grams   ▶   keys       ─┴▶ row 7

The rule is Brown et al.'s (2020, appendix C): a row and a document overlap where they have 13 words
in a row in common, whatever their case and punctuation. A text of 8 to 12 words is one gram, the
whole of it; of a shorter one nothing can be told, for by chance it is in much (they too take no
fewer than 8). A gram in more than 10 rows of one benchmark is a form that they are written in, and
is ignored.

An index is a few arrays and never grows with the documents: for each gram of each row 8 bytes to
compare, 12 to name the row, and 16 to 32 of a filter that most grams of a document end at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_cli.overlap.grams import U64, Keys, grams, grams_of
from llama_cli.overlap.words import words

N = 13  # words of a gram: Brown et al., appendix C
LEAST = 8  # words of a text that can be told: as there
COMMON = 10  # rows with one gram before it is ignored; ours, as theirs is 10 documents
SPARE = 16  # slots of the filter for each gram; ours: one gram in 16 gets past it by chance
LARGEST = 1 << 26  # slots of the filter; ours

Rows = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Index:
    """Keys of grams, sorted, and the rows of each: `rows[starts[i]:starts[i + 1]]` of `keys[i]`.

    `short` are the sizes of texts that are one gram, and `heads` their first words: only a document
    that has a head is asked for those. `told` says of each row whether anything of it is here.
    """

    n: int
    short: Sequence[int]
    heads: Keys
    keys: Keys
    starts: Places
    rows: Rows
    told: NDArray[np.bool_]
    filter: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one document has of a benchmark: the rows, and how many of its grams are theirs."""

    rows: Sequence[int]
    grams: int
    of: int


def build(rows: Iterable[tuple[int, Sequence[str]]], n: int = N) -> Index:
    """Index rows: the number of the benchmark each is of, which rises, and its texts.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"a gram has at least one word, not {n}")
    pairs: list[tuple[Keys, int]] = []
    heads: list[Keys] = []
    short: set[int] = set()
    parts: list[int] = []
    for row, (part, texts) in enumerate(rows):
        parts.append(part)
        for found in filter(_tells(n), map(words, texts)):
            size = min(n, len(found))
            pairs.append((grams(found, size), row))
            if size < n:
                short.add(size)
                heads.append(grams(found[:LEAST], LEAST))
    keys, starts, of = _grouped(pairs, np.array(parts, np.int32))
    told = np.zeros(len(parts), bool)
    told[of] = True
    head = np.unique(np.concatenate([np.empty(0, U64), *heads]))
    return Index(n, sorted(short), head, keys, starts, of, told, _filter(keys))


def _tells(n: int) -> Callable[[Keys], bool]:
    return lambda found: len(found) >= min(n, LEAST)


def _grouped(pairs: Sequence[tuple[Keys, int]], parts: Rows) -> tuple[Keys, Places, Rows]:
    """Sort grams, each once a row, and leave out those of many rows of one benchmark."""
    keys = np.concatenate([np.empty(0, U64), *(keys for keys, _ in pairs)])
    rows = np.repeat(
        np.array([row for _, row in pairs], np.int32), [len(keys) for keys, _ in pairs]
    )
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    new = _changes(keys) | _changes(rows)
    keys, rows = keys[new], rows[new]
    run = np.cumsum(_changes(keys) | _changes(parts[rows])) - 1  # of a key in one benchmark
    few = np.bincount(run)[run] <= COMMON
    keys, rows = keys[few], rows[few]
    starts = np.flatnonzero(_changes(keys))
    return keys[starts], np.append(starts, len(keys)), rows


def _changes(values: Keys | Rows) -> NDArray[np.bool_]:
    """Mark each value that is not the one before it, the first too."""
    changes = np.ones(len(values), bool)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _filter(keys: Keys) -> NDArray[np.bool_]:
    slots = 1 << max(10, (SPARE * len(keys)).bit_length())
    found = np.zeros(min(LARGEST, slots), bool)
    found[_slot(keys, len(found))] = True
    return found


def _slot(keys: Keys, slots: int) -> NDArray[np.int64]:
    return (keys & U64(slots - 1)).view(np.int64)


def find(index: Index, text: str) -> Overlap | None:
    """Tell what a document has of the rows of an index; None if nothing."""
    found = words(text)
    least, whole = grams_of(found, [min(LEAST, index.n), index.n])
    hits = [_places(index, whole)]
    if index.short and _known(index.heads, least).any():
        hits += [_places(index, keys) for keys in grams_of(found, index.short)]
    places = np.concatenate(hits)
    if not len(places):
        return None
    return Overlap(_rows(index, np.unique(places)), len(places), max(1, len(whole)))


def _places(index: Index, keys: Keys) -> Places:
    """Give where those of the grams that the index has are in it."""
    kept = keys[index.filter[_slot(keys, len(index.filter))]]
    kept = kept[_known(index.keys, kept)]
    return np.searchsorted(index.keys, kept)


def _known(sorted_keys: Keys, keys: Keys) -> NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    places = np.searchsorted(sorted_keys, keys)
    places[places == len(sorted_keys)] = 0
    known: NDArray[np.bool_] = sorted_keys[places] == keys
    return known


def _rows(index: Index, places: Places) -> list[int]:
    rows = [index.rows[index.starts[at] : index.starts[at + 1]] for at in places]
    return [int(row) for row in np.unique(np.concatenate(rows))]
