"""Learning a linear scorer from scored texts: ridge regression, solved without a matrix.

The weights are X' a, where (X X' + penalty) a = y - mean(y): one unknown a text, found by
conjugate gradients, which only ever multiply by the sparse X. A part of the texts is kept back to
tell how well the scorer agrees with scores it has not seen. Texts of one group, such as the
answers to one question, are all on one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from llama_cli.errors import LlamaError
from llama_cli.evaluation.scorers.features import Counts, features
from llama_cli.evaluation.scorers.linear import Agreement, Floats, Linear, Places, Stored, scaled
from llama_cli.evaluation.scorers.rows import Scored
from llama_cli.overlap.grams import Keys

PENALTY = 1.0  # ours; 0.25 to 2 agree with held-out scores within 0.03
LEAST = 2  # texts a feature is in; ours
HELD_OUT = 0.2  # of the groups; ours
SEED = 4  # ours: unlike those of other keys
STEPS = 300  # of the solver at most; ours: it takes some 25
PRECISION = 1e-10  # of the squared residual, as a share of the first; ours
SPLIT = 0.5  # between the two sides of AUROC: Gehman et al., 2020, section 2, call 0.5 toxic


def fit(rows: Sequence[Scored], *, name: str, penalty: float = PENALTY) -> Linear:
    """Learn from four fifths of the groups, and measure on the others.

    Raises:
        LlamaError: there are too few rows.
    """
    held = [is_held_out(row.group) for row in rows]
    seen = [row for row, out in zip(rows, held, strict=True) if not out]
    kept = [row for row, out in zip(rows, held, strict=True) if out]
    if len(seen) < 2 or not kept:
        raise LlamaError(f"{len(rows)} scored texts are too few to fit a scorer on")
    keys, idf, weight, bias = _learn(seen, penalty)
    untold = Linear(name, keys, idf, weight, bias, len(seen), Agreement(0, None, None))
    found = np.array(untold([row.text for row in kept]))
    agreement = agree(found, np.array([row.score for row in kept]))
    return Linear(name, keys, idf, weight, bias, len(seen), agreement)


def is_held_out(group: str) -> bool:
    """Tell whether texts of a group are kept back; the same in every run."""
    digest = xxh3_64_intdigest(group.encode("utf-8", "surrogatepass"), seed=SEED)
    return digest < HELD_OUT * 2**64


def agree(found: Floats, given: Floats) -> Agreement:
    """Compare scores with those given.

    >>> agree(np.array([0.1, 0.2, 0.9]), np.array([0.0, 0.1, 0.8]))
    Agreement(n=3, pearson=1.0, auroc=1.0)
    """
    spread = float(np.std(found) * np.std(given))
    covariance = float(np.mean((found - found.mean()) * (given - given.mean())))
    pearson = round(covariance / spread, 6) if spread else None
    return Agreement(len(given), pearson, auroc(found, given >= SPLIT))


def auroc(found: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Give the chance that a positive has more than a negative; half of it where they tie."""
    ones = int(positive.sum())
    if ones in (0, len(found)):
        return None
    _, places, counts = np.unique(found, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equals, from 1
    above = ranks[places][positive].sum() - ones * (ones + 1) / 2
    return round(float(above / (ones * (len(found) - ones))), 6)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Texts by features, as the places and values of what is not 0."""

    rows: Places
    columns: Places
    values: Floats
    shape: tuple[int, int]

    def times(self, vector: Floats) -> Floats:
        """Multiply by one number a feature."""
        return _summed(self.rows, self.values * vector[self.columns], self.shape[0])

    def turned(self, vector: Floats) -> Floats:
        """Multiply its transpose by one number a text."""
        return _summed(self.columns, self.values * vector[self.rows], self.shape[1])


def _summed(places: Places, values: Floats, size: int) -> Floats:
    return np.bincount(places, values, size).astype(np.float64, copy=False)


def _learn(rows: Sequence[Scored], penalty: float) -> tuple[Keys, Stored, Stored, float]:
    found = [features(row.text) for row in rows]
    keys, idf = _vocabulary(found)
    scores = np.array([row.score for row in rows])
    bias = float(scores.mean())
    matrix = _matrix(found, keys, idf)
    weight = matrix.turned(_solve(matrix, scores - bias, penalty))
    return keys, idf.astype(np.float32), weight.astype(np.float32), bias  # as they are stored


def _vocabulary(found: Sequence[tuple[Keys, Counts]]) -> tuple[Keys, Floats]:
    keys, texts = np.unique(np.concatenate([each for each, _ in found]), return_counts=True)
    enough = texts >= LEAST
    return keys[enough], np.log((1 + len(found)) / (1 + texts[enough])) + 1


def _matrix(found: Sequence[tuple[Keys, Counts]], keys: Keys, idf: Floats) -> _Matrix:
    parts = [scaled(*each, keys, idf) for each in found]
    rows = np.repeat(np.arange(len(parts)), [len(places) for places, _ in parts])
    columns = np.concatenate([places for places, _ in parts])
    values = np.concatenate([values for _, values in parts])
    return _Matrix(rows, columns, values, (len(found), len(keys)))


def _solve(matrix: _Matrix, target: Floats, penalty: float) -> Floats:
    """Find a of (X X' + penalty) a = target by conjugate gradients (Hestenes, Stiefel, 1952)."""
    answer, rest = np.zeros_like(target), target.copy()
    way, size = rest.copy(), float(rest @ rest)
    enough = PRECISION * size
    for _ in range(STEPS):
        if size <= enough:
            break
        moved = matrix.times(matrix.turned(way)) + penalty * way
        step = size / float(way @ moved)
        answer += step * way
        rest -= step * moved
        before, size = size, float(rest @ rest)
        way = rest + size / before * way
    return answer
