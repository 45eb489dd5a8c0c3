"""The tasks there are, each with its shots, rule, stop, files and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cli.evaluation.layout import SIZES, reported, table, text
from llama_cli.evaluation.task import Task


def catalogue(tasks: Iterable[Task]) -> str:
    """Lay them out: what is asked and what the paper reports, then stops and files."""
    tasks = list(tasks)
    return f"{_asked(tasks)}\n\n{_read(tasks)}"


def _asked(tasks: list[Task]) -> str:
    sizes = (f"LLaMA-{size}" for size in SIZES)
    made = table("task", "rows of", "shots", "rule", "metric", *sizes)
    for task in tasks:
        for shots in task.by_shots or (task.shots,):
            figures = task.figures(task.metric, "", shots)
            made.add_row(
                task.name,
                task.split or "documents",
                str(shots),
                task.kind.normalize,
                task.metric,
                *reported(figures, digits=1 if task.scale > 1 else 3),
            )
    return text(made)


def _read(tasks: list[Task]) -> str:
    made = table("task", "files", "stop")
    for task in tasks:
        files = " and ".join(task.files.names) if task.files else "documents, or stdin"
        made.add_row(task.name, files, " ".join(map(repr, task.kind.stop)))
    return text(made)
