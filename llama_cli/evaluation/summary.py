"""Marks as figures: for each task and metric the mean of all rows, and of each group of them.

Rows weigh the same whatever their group, so the average of MMLU is over its 14,042 questions and
not over its subjects, which is what the paper's Table 9 prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from llama_cli.errors import LlamaError
from llama_cli.evaluation.request import Graded
from llama_cli.evaluation.task import Task
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Score

PLAIN = ("margin", "gold_bits_per_byte")  # never in percent
RATIO = ("bits", "bytes")  # a figure of their sums


@dataclass(slots=True)
class Mean:
    """Rows, and what they add up to; the error is that of a mean, for 0 and 1 the binomial one."""

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Count one row."""
        self.rows += 1
        self.total += value
        self.squares += value * value

    def figure(self) -> tuple[float, float | None]:
        """Give the mean and its standard error."""
        mean = self.total / self.rows
        return mean, math.sqrt(max(0.0, self.squares / self.rows - mean * mean) / self.rows)


@dataclass(slots=True)
class Ratio:
    """Sums of two values; the standard error is that of their ratio.

    Cochran, Sampling Techniques, 3rd edition, 2.11: documents are the sample, so long ones weigh
    by their bytes and their number decides the error.
    """

    rows: int = 0
    above: float = 0.0
    below: float = 0.0
    above2: float = 0.0
    cross: float = 0.0
    below2: float = 0.0

    def add(self, above: float, below: float) -> None:
        """Count one row."""
        self.rows += 1
        self.above += above
        self.below += below
        self.above2 += above**2
        self.cross += above * below
        self.below2 += below**2

    def figure(self) -> tuple[float, float | None]:
        """Give the ratio and its standard error; one row has none."""
        rate = self.above / self.below
        if self.rows < 2:
            return rate, None
        spread = max(0.0, self.above2 - 2 * rate * self.cross + rate**2 * self.below2)
        return rate, math.sqrt(spread * self.rows / (self.rows - 1)) / self.below


@dataclass(slots=True)
class Tally:
    """What is known of the rows of one task and model."""

    task: Task
    model: str
    cells: dict[tuple[str, str], Mean | Ratio] = field(default_factory=dict)  # by group and metric
    facts: dict[str, set[Any]] = field(default_factory=dict)
    prompts: Any = field(default_factory=lambda: blake2b(digest_size=8))
    truncated: int = 0
    fewer: int = 0
    seen: set[str] = field(default_factory=set)  # ids of rows that are in

    def add(self, graded: Graded) -> None:
        """Count one row.

        Raises:
            LlamaError: it is in already; documents may share an id.
        """
        if self.task.files:
            if graded.id in self.seen:
                raise LlamaError(
                    f"row '{graded.id}' of {graded.task} comes twice",
                    hint="llama eval summarise, for each run by itself",
                )
            self.seen.add(graded.id)
        meta = graded.meta
        for group in ("", *meta.get("groups", ())):
            self._count(group, graded)
        self.prompts.update(str(meta.get("prompt", "")).encode())
        self.truncated += bool(meta.get("truncated"))
        self.fewer += "asked_shots" in meta
        for name in (
            "bos",
            "seed",
            "samples",
            "temperature",
            "cut",
            "examples",
            "tier",
            "scorer",
            "agreement",
        ):
            if name in meta:
                self.facts.setdefault(name, set()).add(meta[name])
        shots = meta.get("asked_shots", meta.get("shots", self.task.shots))
        self.facts.setdefault("shots", set()).add(shots)

    def _count(self, group: str, graded: Graded) -> None:
        values = dict(graded.values)
        if set(values) >= set(RATIO):
            pair = values.pop("bits"), values.pop("bytes")
            ratio = self.cells.setdefault((group, self.task.metric), Ratio())
            assert isinstance(ratio, Ratio)
            ratio.add(*pair)
        for metric, value in values.items():
            mean = self.cells.setdefault((group, metric), Mean())
            assert isinstance(mean, Mean)
            mean.add(value)

    def scores(self) -> Iterator[Score]:
        """Give the figure of all rows for each metric, then those of each group.

        Groups for which the paper has figures come first.

        Raises:
            LlamaError: the texts have no byte between them, or rows were asked with other shots.
        """
        if len(shots := sorted(self.facts["shots"])) > 1:
            told = " and ".join(map(str, shots))
            raise LlamaError(f"rows of {self.task.name} with {told} shots are not of one run")
        whole = [key for key in self.cells if not key[0]]
        parts = [key for key in self.cells if key[0] and key[1] not in PLAIN]
        parts.sort(key=lambda key: (key[0] not in self.task.by_group, key))
        for group, metric in [*whole, *parts]:
            yield self._score(group, metric, self.cells[group, metric])

    def _score(self, group: str, metric: str, cell: Mean | Ratio) -> Score:
        task = self.task
        if isinstance(cell, Ratio) and not cell.below:
            raise LlamaError(f"{task.name}: no text to score")
        scale = 1.0 if metric in PLAIN or isinstance(cell, Ratio) else task.scale
        value, error = cell.figure()
        shots = max(self.facts["shots"])
        return Score(
            task=task.name,
            metric=metric,
            value=scale * value,
            stderr=None if error is None else scale * error,
            shots=shots,
            normalization=task.kind.normalize,
            reported=task.figures(metric, group, shots),
            group=group,
            rows=cell.rows,
            protocol=self._protocol(),
            model=self.model,
        )

    def _protocol(self) -> dict[str, Any]:
        found = {
            name: values.copy().pop() if len(values) == 1 else sorted(values, key=str)
            for name, values in sorted(self.facts.items())
            if name != "shots"
        }
        lost = {"truncated": self.truncated, "fewer_shots": self.fewer}
        return {
            "split": self.task.split,
            "prompt": self.prompts.hexdigest(),
            **found,
            **{name: count for name, count in lost.items() if count},
            "note": self.task.note,
        }


def summarise(graded: Iterable[Graded]) -> Iterator[Score]:
    """Add up marks, by task and model in the order they come.

    Raises:
        LlamaError: there are none, or one is of no known task.
    """
    tallies: dict[tuple[str, str], Tally] = {}
    for row in graded:
        key = row.task, row.model
        if key not in tallies:
            if row.task not in TASKS:
                raise LlamaError(f"no task '{row.task}'; there are {', '.join(TASKS)}")
            tallies[key] = Tally(TASKS[row.task], row.model)
        tallies[key].add(row)
    if not tallies:
        raise LlamaError("no rows to score")
    for tally in tallies.values():
        yield from tally.scores()
