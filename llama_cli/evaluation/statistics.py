"""How sure a figure is, and whether two runs differ: intervals, paired tests, what n can show.

Shares of right answers get Wilson's interval (1927; recommended by Newcombe, 1998,
doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), other means the percentile
bootstrap (Efron & Tibshirani, 1993, chapter 13). Two runs on the same rows are compared row by
row: McNemar's exact test where a row is right or wrong (McNemar, 1947, doi:10.1007/BF02295996;
its exact form is the sign test of the rows that flipped), and the bootstrap of the differences.
What n rows can show is Connor's formula (1987, doi:10.2307/2531961) and Miller's (2024,
https://arxiv.org/abs/2411.00640, section 5). Several tests at once are corrected as Holm (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # a test that finds what is not there, one time in twenty
POWER = 0.80  # a test that finds what is there, four times in five; Cohen, 1988
TIMES = 10_000  # resamples; ours: the end of an interval moves by a hundredth of its width
MOST = 200_000_000  # numbers drawn for one mean; ours: a second
FEW = 32  # distinct values up to which rows are drawn by their counts; ours
DRAWN = 1 << 22  # numbers drawn at a time, to bound memory; ours: 32 MiB


class Interval(NamedTuple):
    """The two ends of what a figure may well be."""

    low: float
    high: float


def normal_quantile(probability: float) -> float:
    """Give the point of the normal distribution under which `probability` lies.

    >>> round(normal_quantile(0.975), 4)
    1.96
    """
    return NormalDist().inv_cdf(probability)


def wilson(right: float, count: int, *, level: float = LEVEL) -> Interval:
    """Give Wilson's score interval of a share, within 0 and 1 whatever the share.

    >>> tuple(round(end, 4) for end in wilson(81, 263))  # Newcombe, 1998, table I
    (0.2553, 0.3662)

    Raises:
        ValueError: there are no rows, or more right answers than rows.
    """
    if not 0 <= right <= count or not count:
        raise ValueError(f"{right} right of {count} rows is no share")
    z = normal_quantile((1 + level) / 2)
    share, weight = right / count, z * z / count
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    low, high = ((middle + sign * half) / (1 + weight) for sign in (-1, 1))
    return Interval(low if right else 0.0, high if right < count else 1.0)


def resampled_means(
    values: Sequence[float] | Numbers, *, seed: int = 0, times: int = TIMES
) -> Numbers:
    """Give the means of `times` samples as large as `values`, drawn from them with replacement.

    Of very many rows fewer samples are drawn, a thousand at least, for time; the mean of so many
    is nearly normal.

    Where there are few distinct values, how often each is drawn is multinomial: the same
    distribution, in the time of `times` draws instead of `times` by n.

    Raises:
        ValueError: there are no values.
    """
    rows = np.asarray(values, dtype=np.float64)
    if not rows.size:
        raise ValueError("there are no values to draw from")
    rng = np.random.default_rng(seed)
    distinct, counts = np.unique(rows, return_counts=True)
    if distinct.size <= FEW:
        drawn = rng.multinomial(rows.size, counts / rows.size, size=times)
        means: Numbers = drawn @ distinct / rows.size
        return means
    times = min(times, max(1_000, MOST // rows.size))
    at_once = max(1, DRAWN // rows.size)
    parts = [min(at_once, times - start) for start in range(0, times, at_once)]
    return np.concatenate(
        [rows[rng.integers(rows.size, size=(part, rows.size))].mean(axis=1) for part in parts]
    )


def bootstrap(
    values: Sequence[float] | Numbers,
    *,
    seed: int = 0,
    times: int = TIMES,
    level: float = LEVEL,
) -> Interval:
    """Give the percentile bootstrap's interval of a mean.

    Of the differences between two runs, row by row, it is the paired bootstrap.
    """
    return ends(resampled_means(values, seed=seed, times=times), level=level)


def ends(means: Numbers, *, level: float = LEVEL) -> Interval:
    """Give the ends between which `level` of the means lie."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def share_beyond(means: Numbers) -> float:
    """Give the two-sided p value that a mean is 0: how often a sample's is on the other side.

    It is at least 2 / (samples + 1), for one is always added to what was counted (Davison &
    Hinkley, 1997, section 4.2). Means that are all 0 give 1.
    """
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (means.size + 1))


def mcnemar(gained: int, lost: int) -> float:
    """Give the exact two-sided p value that rows flip as often one way as the other.

    >>> mcnemar(9, 2)  # 134/2048; Fay, 2010, exact2x2
    0.0654296875

    Raises:
        ValueError: a count is negative.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"{min(gained, lost)} rows cannot have flipped")
    flips = gained + lost
    tail, term = 0, 1
    for k in range(min(gained, lost) + 1):  # whole numbers: exact at any size
        tail += term
        term = term * (flips - k) // (k + 1)
    return min(1.0, 2 * tail / (1 << flips))


def smallest_paired_flips(
    flips: int, count: int, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Give the smallest difference of two shares that a paired test of `count` rows can show.

    Connor, 1987: z_a sqrt(f) + z_b sqrt(f - d^2) = d sqrt(n), for d, with f the share of rows
    that flip. It is at least that of the fewest flips, all one way, that the exact test calls a
    difference: six at 5%.

    >>> round(smallest_paired_flips(80, 2000), 4)
    0.0125
    """
    share, z_a, z_b = flips / count, normal_quantile(1 - alpha / 2), normal_quantile(power)
    given = z_a * math.sqrt(share)
    inner = given**2 * count - (count + z_b**2) * (given**2 - z_b**2 * share)
    found = (given * math.sqrt(count) + math.sqrt(max(0.0, inner))) / (count + z_b**2)
    return min(1.0, max(found, fewest_flips(alpha) / count))


def fewest_flips(alpha: float = ALPHA) -> int:
    """Give the fewest flips, all one way, that McNemar's exact test calls a difference.

    >>> fewest_flips(), mcnemar(6, 0), mcnemar(5, 0)
    (6, 0.03125, 0.0625)
    """
    return math.ceil(1 - math.log2(alpha))


def smallest_paired(
    deviation: float, count: int, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Give the smallest mean difference that `count` pairs can show; `deviation` is that of one.

    Miller, 2024, equation 9, with one answer a question.
    """
    z = normal_quantile(1 - alpha / 2) + normal_quantile(power)
    return z * deviation / math.sqrt(count)


def smallest_unpaired(
    deviation: float, count: int, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Give the smallest difference of means that two sets of `count` rows each can show.

    The two are other rows, or a run of which only the mean is known, as the paper's. Of a share
    p, `deviation` is sqrt(p (1 - p)).

    >>> round(smallest_unpaired(0.5, 1838), 4)  # PIQA, were half the answers right
    0.0462
    """
    return math.sqrt(2) * smallest_paired(deviation, count, alpha=alpha, power=power)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for how many there are, so that `alpha` holds for all of them together.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    found = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = largest
    return found


def interval_of(
    values: Sequence[float] | Numbers, *, seed: int = 0, times: int = TIMES
) -> Interval:
    """Give Wilson's interval where every value is 0 or 1, and the bootstrap's elsewhere."""
    rows = np.asarray(values, dtype=np.float64)
    if are_marks(rows):
        return wilson(int(rows.sum()), rows.size)
    return bootstrap(rows, seed=seed, times=times)


def are_marks(values: Sequence[float] | Numbers) -> bool:
    """Say whether every value is 0 or 1: a row that is wrong or right."""
    rows = np.asarray(values, dtype=np.float64)
    return bool(((rows == 0) | (rows == 1)).all())
