"""Two runs on the same rows, compared row by row: how far apart, and whether that is chance.

Rows are paired by task and id, so what is hard for both weighs nothing: a test of the pairs finds
differences several times smaller than one of the two figures (Miller, 2024,
https://arxiv.org/abs/2411.00640, section 4.2; McNemar, 1947). Figures of rows that are right or
wrong are in percent, as the paper's; others are in the unit of their rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson

from llama_cli.errors import LlamaError
from llama_cli.evaluation import small, statistics
from llama_cli.evaluation.request import Graded
from llama_cli.evaluation.statistics import ALPHA, Interval, Numbers, interval_of

Key = tuple[str, str]  # a row's task and id


class Held(NamedTuple):
    """What is kept of a row: its values, and the fingerprint of what was asked, if known."""

    values: Mapping[str, float]
    prompt: str


Rows = Mapping[Key, Held]
Verdict = Literal["higher", "lower", "no difference shown"]

RESAMPLES = 2_000  # for the interval of one run; ours: the difference's has statistics.TIMES


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one task in two runs, A and B, on the rows that both have.

    `test` is "mcnemar" where every value is 0 or 1, and then rows flip: `gained` are right in B
    alone, `lost` in A alone. It is "bootstrap" elsewhere, and then they are the rows whose value
    rose or fell. `p_corrected` is Holm's, over all tasks, and decides
    `verdict`, which is about B: a higher figure need not be a better one. `smallest` is the
    difference that as many rows, as unlike, show four times in five.
    """

    task: str
    metric: str
    n: int
    unit: Literal["percent", "value"]
    a: float
    a_interval: Interval
    b: float
    b_interval: Interval
    difference: float
    difference_interval: Interval
    gained: int
    lost: int
    test: Literal["mcnemar", "bootstrap"]
    p: float
    p_corrected: float
    smallest: float
    verdict: Verdict

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        fields = asdict(self).items()  # orjson writes no named tuple
        return orjson.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in fields})


@dataclass(frozen=True, slots=True)
class Apart:
    """What two runs do not share, by task: rows of one alone, and rows asked in two ways."""

    only_a: Mapping[str, int]
    only_b: Mapping[str, int]
    asked: Mapping[str, int]


def held(rows: Iterable[Graded], where: str) -> Rows:
    """Hold the values of a run by task and id.

    Raises:
        LlamaError: a row comes twice, so it is not known which to compare; or there is none.
    """
    found: dict[Key, Held] = {}
    for row in rows:
        if (row.task, row.id) in found:
            raise LlamaError(f"{where}: row '{row.id}' of {row.task} comes twice")
        found[row.task, row.id] = Held(row.values, str(row.meta.get("prompt", "")))
    if not found:
        raise LlamaError(f"{where}: no rows to compare")
    return found


def apart(a: Rows, b: Rows) -> Apart:
    """Count the rows that are in one run alone, and those that were asked in two ways."""
    return Apart(
        Counter(key[0] for key in a if key not in b),
        Counter(key[0] for key in b if key not in a),
        Counter(key[0] for key in a if key in b and _unlike(a[key].prompt, b[key].prompt)),
    )


def _unlike(a: str, b: str) -> bool:
    return bool(a and b and a != b)


def compare(a: Rows, b: Rows, *, seed: int = 0) -> list[Comparison]:
    """Compare every metric of every task that both runs have, in A's order.

    Raises:
        LlamaError: no row is in both.
    """
    found = [
        compare_pairs(*key, *np.asarray(pairs, dtype=np.float64).T, seed=seed)
        for key, pairs in _paired(a, b).items()
    ]
    if not found:
        raise LlamaError("no row of A is in B with the same metric, so there is nothing to compare")
    return _corrected(found)


def _corrected(found: list[Comparison]) -> list[Comparison]:
    """Judge each by its p value, corrected for all comparisons of its family."""
    corrected: dict[int, float] = {}
    for name in {family(each.metric) for each in found}:
        places = [place for place, each in enumerate(found) if family(each.metric) == name]
        corrected |= zip(places, statistics.holm([found[place].p for place in places]), strict=True)
    return [_judged(each, corrected[place]) for place, each in enumerate(found)]


def family(metric: str) -> str:
    """Name what a metric is corrected with: figures of tasks together, others each by itself.

    What is measured beside a task's figure should not make its difference harder to show.
    """
    return metric if metric in small.NAMES else ""


def _paired(a: Rows, b: Rows) -> dict[Key, list[tuple[float, float]]]:
    """Give the pairs of values by task and metric; of texts, those that add up to their rate."""
    found: dict[Key, list[tuple[float, float]]] = {}
    for key, (values, _) in a.items():
        other = b[key].values if key in b else {}
        for metric, value in values.items():
            if metric in other:
                found.setdefault((key[0], metric), []).append((value, other[metric]))
    return dict(chain.from_iterable(_rated(found, key) for key in found))


def _rated(found: Mapping[Key, list[tuple[float, float]]], key: Key) -> Iterator[tuple[Key, Any]]:
    """Put bits a byte in the place of all that was measured of texts."""
    task, metric = key
    if (task, "bits") not in found or (task, "bytes") not in found:
        yield key, found[key]
    elif metric == "bits":
        bits, sizes = (np.asarray(found[task, name]).T for name in ("bits", "bytes"))
        yield (
            (task, "bits_per_byte"),
            np.stack([_rates(*own) for own in zip(bits, sizes, strict=True)], 1),
        )


def _rates(bits: Numbers, sizes: Numbers) -> Numbers:
    """Give each text's part in a rate: the mean is the rate, the spread that of a ratio.

    Cochran, Sampling Techniques, 3rd edition, 2.11.

    Raises:
        LlamaError: the texts have no byte between them.
    """
    if not sizes.sum():
        raise LlamaError("no text to compare")
    rate = bits.sum() / sizes.sum()
    parts: Numbers = rate + (bits - rate * sizes) / sizes.mean()
    return parts


def compare_pairs(task: str, metric: str, a: Numbers, b: Numbers, *, seed: int = 0) -> Comparison:
    """Compare one metric, a value of each run for each row; the verdict is that of this test."""
    marks = statistics.are_marks(a) and statistics.are_marks(b)
    change = b - a
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    scale = 100.0 if marks else 1.0
    means = statistics.resampled_means(change, seed=seed)
    p = statistics.mcnemar(gained, lost) if marks else statistics.share_beyond(means)
    return _judged(
        Comparison(
            task=task,
            metric=metric,
            n=a.size,
            unit="percent" if marks else "value",
            a=scale * float(a.mean()),
            a_interval=_scaled(interval_of(a, seed=seed, times=RESAMPLES), scale),
            b=scale * float(b.mean()),
            b_interval=_scaled(interval_of(b, seed=seed, times=RESAMPLES), scale),
            difference=scale * float(change.mean()),
            difference_interval=_scaled(statistics.ends(means), scale),
            gained=gained,
            lost=lost,
            test="mcnemar" if marks else "bootstrap",
            p=p,
            p_corrected=p,
            smallest=scale * _smallest(change, gained + lost, marks),
            verdict="no difference shown",
        ),
        p,
    )


def _smallest(change: Numbers, flips: int, marks: bool) -> float:
    if marks:
        return statistics.smallest_paired_flips(flips, change.size)
    return statistics.smallest_paired(float(change.std()), change.size)


def _scaled(interval: Interval, scale: float) -> Interval:
    return Interval(*(scale * end for end in interval))


def _judged(comparison: Comparison, p: float) -> Comparison:
    verdict: Verdict = "no difference shown"
    if p <= ALPHA:
        verdict = "higher" if comparison.difference > 0 else "lower"
    return replace(comparison, p_corrected=p, verdict=verdict)


def models(rows: Iterable[Graded], seen: set[str]) -> Iterator[Graded]:
    """Pass rows on, and note which models answered them."""
    for row in rows:
        seen.add(row.model)
        yield row
