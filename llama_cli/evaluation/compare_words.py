"""A comparison as people read it: a table of numbers, and what they say in a few lines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llama_cli.evaluation.compare import Apart, Comparison, family
from llama_cli.evaluation.statistics import Interval
from llama_cli.evaluation.tables import lay_out

MOST_DIGITS = 6  # after the point; ours
SAME = "same"
COLUMNS = ("task", "metric", "rows", "A", "B", "B - A", "up", "down", "p", "shows")
NAMED = 20  # comparisons of one verdict that are named; ours: the table has them all


def describe(comparisons: Sequence[Comparison], unlike: Apart, a: str = "", b: str = "") -> str:
    """Lay out every comparison, and say below what was found; `a` and `b` name the models."""
    table = lay_out(COLUMNS, map(_row, comparisons), left=("task", "metric"))
    return "\n".join([table, "", *_verdicts(comparisons), *_notes(comparisons, unlike, a, b)])


def _row(found: Comparison) -> list[str]:
    return [
        found.task,
        found.metric,
        f"{found.n:,}",
        _figure(found, found.a, found.a_interval),
        _figure(found, found.b, found.b_interval),
        _figure(found, found.difference, found.difference_interval, sign="+"),
        f"{found.gained:,}",
        f"{found.lost:,}",
        shown_p(found.p_corrected),
        _number(found, found.smallest) if found.smallest else "",
    ]


def _figure(found: Comparison, value: float, interval: Interval, sign: str = "") -> str:
    low, high = (_number(found, end, sign) for end in interval)
    return f"{_number(found, value, sign)} ({low}, {high})"


def _number(found: Comparison, value: float, sign: str = "") -> str:
    return f"{value + 0.0:{sign}.{_digits(found)}f}"


def _digits(found: Comparison) -> int:
    """Give so many digits that the difference that would show has two."""
    if found.unit == "percent":
        return 1
    small = found.smallest or 1.0
    return min(max(3, 2 - math.ceil(math.log10(small))), MOST_DIGITS)


def shown_p(p: float) -> str:
    """Write a p value in a few characters.

    >>> shown_p(0.04321), shown_p(8.58e-06), shown_p(1.0)
    ('0.043', '9e-06', '1.000')
    """
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _verdicts(comparisons: Sequence[Comparison]) -> Iterator[str]:
    heads = {
        "higher": "B is higher than A",
        "lower": "B is lower than A",
        "no difference shown": "no difference shown",
        SAME: "every row is the same",
    }
    for verdict, head in heads.items():
        if names := [_name(each) for each in comparisons if _verdict(each) == verdict]:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            yield f"{head}: {', '.join(names[:NAMED])}{more}"


def _verdict(found: Comparison) -> str:
    return found.verdict if found.gained or found.lost else SAME


def _name(found: Comparison) -> str:
    name = f"{found.task} {found.metric}"
    if _verdict(found) == SAME:
        return name
    if found.verdict == "no difference shown":
        return f"{name} (one of {_number(found, found.smallest)} would show)"
    return f"{name} by {_number(found, abs(found.difference))}"


def _notes(comparisons: Sequence[Comparison], unlike: Apart, a: str, b: str) -> Iterator[str]:
    if a or b:
        yield f"A is {a or 'not named'}; B is {b or 'not named'}"
    for name, other, counts in (("A", "B", unlike.only_a), ("B", "A", unlike.only_b)):
        if counts:
            yield f"in {name} and not in {other}, so not compared: {_counts(counts)}"
    if unlike.asked:
        yield f"asked in two ways, yet compared: {_counts(unlike.asked)}"
    yield f"(low, high) is a 95% interval; p is of {_tests(comparisons)}{_correction(comparisons)}"
    yield "up and down are the rows that B gets higher and lower"
    yield "shows is the difference that as many rows, as unlike, would show four times in five"


def _correction(comparisons: Sequence[Comparison]) -> str:
    sizes = Counter(family(each.metric) for each in comparisons)
    if max(sizes.values()) == 1:
        return ""
    return f", corrected for {max(sizes.values())} comparisons (Holm)"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{task} {number:,}" for task, number in sorted(counts.items()))


def _tests(comparisons: Iterable[Comparison]) -> str:
    names = {"mcnemar": "McNemar's exact test", "bootstrap": "the paired bootstrap"}
    used = {each.test for each in comparisons}
    return " or ".join(word for test, word in names.items() if test in used)
