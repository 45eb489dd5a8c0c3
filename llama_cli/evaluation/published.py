"""Every figure of the paper's Tables 3 to 16, as data: published.json, and what each is of.

Touvron et al., 2023, https://arxiv.org/abs/2302.13971; a few are from its text ("text-4" is
section 4). A group of cells is what one row or column of a table is about: a benchmark, asked in
one setting, for several models. `task`, `group`, `metric` and `shots` are what a Score of ours
has where it measures the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import orjson

from llama_cli.records import Score

Table = int | str

TITLES: dict[Table, str] = {
    3: "common sense",
    4: "NaturalQuestions",
    5: "TriviaQA",
    6: "reading comprehension",
    7: "mathematics",
    8: "code",
    9: "MMLU",
    10: "MMLU after instruction finetuning",
    11: "toxicity (less is better)",
    12: "CrowS-Pairs (50 is unbiased)",
    13: "WinoGender",
    14: "TruthfulQA",
    15: "carbon",
    16: "MMLU by subject",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One model's figure; `note` says where the paper has it from, if not from its authors."""

    model: str
    size: str
    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """The figures of several models for one thing, in the paper's unit."""

    table: Table
    benchmark: str
    setting: str
    unit: str  # percent, fraction or amount
    task: str
    group: str
    metric: str
    shots: int
    cells: tuple[Cell, ...]

    @property
    def rounding(self) -> float:
        """How far a printed figure may be from its true one; some of Table 16 are rounded twice."""
        return {"percent": 0.1 if self.table == 16 else 0.05, "fraction": 0.005}.get(self.unit, 0.5)


@cache
def published() -> tuple[Published, ...]:
    """Read all of them, in the order of the tables."""
    data = orjson.loads(files("llama_cli.evaluation").joinpath("published.json").read_bytes())
    return tuple(
        Published(**{**group, "cells": tuple(Cell(*cell) for cell in group["cells"])})
        for group in data["groups"]
    )


def same(score: Score) -> list[Published]:
    """Give the published figures of what a score measures; a figure may be in several tables."""
    wanted = score.task, plain(score.group), score.metric, score.shots
    return [
        each
        for each in published()
        if each.table in TITLES
        and (each.task, plain(each.group), each.metric, each.shots) == wanted
    ]


def plain(name: str) -> str:
    """Give the letters and digits of a group's name, however it is written.

    >>> plain("social sciences") == plain("Social-Sciences")
    True
    """
    return "".join(filter(str.isalnum, name.lower()))


def settings(task: str) -> list[int]:
    """Give the numbers of shots with which the paper asks a task; none if it does not."""
    return sorted({each.shots for each in published() if each.task == task})
