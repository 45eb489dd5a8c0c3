"""Scores beside the paper's figures: how sure ours is, which figures are of the same, what differs.

A published figure lies within ours if the true figure behind its rounding may be inside our
interval. That is weak evidence that two models are alike: on few rows an interval holds much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from llama_cli.evaluation import statistics
from llama_cli.evaluation.official import official_rows
from llama_cli.evaluation.published import Cell, Published, same, settings
from llama_cli.evaluation.statistics import Interval
from llama_cli.records import Score

SAME = 1e-6  # relative; ours: two ways of writing one standard error


@dataclass(frozen=True, slots=True)
class Entry:
    """A score, its 95% interval, and the paper's figures of the same; None where it has none."""

    score: Score
    interval: Interval | None
    published: Published | None
    differs: tuple[str, ...]

    @property
    def smallest(self) -> float | None:
        """How far a model of which only the figure is known must be, for as many rows to show it.

        Four times in five, were it asked as many rows, with as much spread.
        """
        error, rows = self.score.stderr, self.score.rows
        if error is None or not rows:
            return None
        return statistics.smallest_unpaired(error * math.sqrt(rows), rows)

    def within(self, cell: Cell) -> bool:
        """Tell whether a published figure lies in our interval, its rounding allowed for."""
        if self.interval is None or self.published is None:
            return False
        low, high = self.interval
        return low - self.published.rounding <= cell.value <= high + self.published.rounding

    def as_json(self) -> dict[str, Any]:
        """Name the fields, in order."""
        score, found = self.score, self.published
        return {
            "task": score.task,
            "group": score.group,
            "metric": score.metric,
            "shots": score.shots,
            "model": score.model,
            "value": score.value,
            "stderr": score.stderr,
            "interval": list(self.interval) if self.interval else None,
            "smallest": self.smallest,
            "rows": score.rows,
            "normalization": score.normalization,
            "table": found.table if found else None,
            "benchmark": found.benchmark if found else None,
            "setting": found.setting if found else None,
            "differs": list(self.differs),
            "protocol": dict(score.protocol),
            "cells": [self._cell(cell) for cell in found.cells] if found else [],
        }

    def _cell(self, cell: Cell) -> dict[str, Any]:
        return {
            "model": cell.model,
            "size": cell.size,
            "value": cell.value,
            "difference": self.score.value - cell.value,
            "within": self.within(cell),
            **({"note": cell.note} if cell.note else {}),
        }


def place(scores: Iterable[Score]) -> list[Entry]:
    """Put each score beside the paper's; in two tables, it is there twice.

    What several models have of one figure stands together, where the first has it.
    """
    together: dict[Any, list[Score]] = {}
    for score in scores:
        key = score.task, score.group, score.metric, score.shots
        together.setdefault(key, []).append(score)
    found: list[Entry] = []
    for score in chain.from_iterable(together.values()):
        tables: list[Published | None] = [*same(score)]
        found += [
            Entry(score, interval(score, each), each, differences(score))
            for each in tables or [None]
        ]
    return found


def interval(score: Score, found: Published | None = None) -> Interval | None:
    """Give Wilson's interval where rows are right or wrong, else the normal one of the error.

    Rows are right or wrong if the error is the binomial one of the figure.
    """
    if score.stderr is None:
        return None
    for scale in (1.0, 100.0) if found and found.unit == "fraction" else (100.0, 1.0):
        share = score.value / scale
        if score.rows and 0 <= share <= 1:
            binomial = scale * math.sqrt(share * (1 - share) / score.rows)
            if math.isclose(score.stderr, binomial, rel_tol=SAME, abs_tol=SAME):
                return _scaled(statistics.wilson(share * score.rows, score.rows), scale)
    half = statistics.normal_quantile((1 + statistics.LEVEL) / 2) * score.stderr
    return Interval(score.value - half, score.value + half)


def _scaled(found: Interval, scale: float) -> Interval:
    return Interval(*(scale * end for end in found))


def differences(score: Score) -> tuple[str, ...]:
    """Say in words what is not as in the paper, the task's own note last."""
    protocol = score.protocol
    said = [_rows(score), _shots(score)]
    if protocol.get("bos") is False:
        said.append("without the begin mark")
    if cut := protocol.get("cut"):
        said.append(f"worked examples are cut from the test rows ({cut})")
    if truncated := protocol.get("truncated"):
        said.append(f"{truncated:,} prompts lost their beginning to fit the context")
    if fewer := protocol.get("fewer_shots"):
        said.append(f"{fewer:,} rows had fewer shots, to fit the context")
    return tuple(word for word in [*said, str(protocol.get("note", ""))] if word)


def _rows(score: Score) -> str:
    official = official_rows(score.task)
    if not official or score.group or not score.rows or score.rows == official:
        return ""
    return f"{score.rows:,} rows, where there are {official:,}"


def _shots(score: Score) -> str:
    known = settings(score.task)
    if not known or score.shots in known:
        return ""
    return f"{score.shots} shots, where the paper has {', '.join(map(str, known))}"
