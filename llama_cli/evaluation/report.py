"""Results as a table that people read: ours, its error, and LLaMA's figures of the paper."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Literal

from rich.console import Console
from rich.table import Table

from llama_cli.evaluation.score import Accuracy, Tally
from llama_cli.evaluation.task import Choice, Task

SIZES = ("7B", "13B", "33B", "65B")
LEFT = ("task", "metric", "files")
WIDTH = 120  # characters; ours


def results(tallies: Iterable[Tally]) -> str:
    """Lay out each score with the number of rows behind it, beside the paper's, and its notes."""
    table = _table("task", "metric", "value", "±", "rows", *(f"LLaMA-{size}" for size in SIZES))
    notes = []
    for tally in tallies:
        score = tally.score()
        digits = 1 if score.metric == "accuracy" else 4  # the paper prints one
        table.add_row(
            score.task,
            f"{score.metric} /{score.normalization}",
            f"{score.value:.{digits}f}",
            "" if score.stderr is None else f"{score.stderr:.{digits}f}",
            f"{tally.count:,}",
            *_reported(score.reported),
        )
        notes.append(f"{tally.task.name}: {tally.task.note}")
        if isinstance(tally, Accuracy) and tally.truncated:
            cut = f"{tally.truncated:,} of {tally.count:,} prompts lost their beginning"
            notes.append(f"{tally.task.name}: {cut} to fit the context")
    return "\n".join([_text(table), *notes])


def catalogue(tasks: Iterable[Task]) -> str:
    """Lay out the tasks there are, the files each needs, and the paper's figures."""
    table = _table("task", "files", "shots", "normalised by", *(f"LLaMA-{size}" for size in SIZES))
    for task in tasks:
        if isinstance(task, Choice):
            files, shots, norm = " ".join(task.files), str(task.shots), task.normalize
            table.add_row(task.name, files, shots, norm, *_reported(task.reported))
        else:
            table.add_row(task.name, "documents", "0", "bytes")
    return _text(table)


def _reported(figures: Mapping[str, float]) -> list[str]:
    return [f"{figures[size]:.1f}" if size in figures else "" for size in SIZES]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in LEFT else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    return table


def _text(table: Table) -> str:
    out = io.StringIO()
    Console(file=out, width=WIDTH, no_color=True, force_terminal=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
