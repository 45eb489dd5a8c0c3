"""The tasks there are, each with its files, shots, rules and the paper's figures."""

from __future__ import annotations

from collections.abc import Iterable

from llama_cli.evaluation.layout import SIZES, reported, table, text
from llama_cli.evaluation.task import Task


def catalogue(tasks: Iterable[Task]) -> str:
    """Lay them out."""
    sizes = (f"LLaMA-{size}" for size in SIZES)
    made = table("task", "rows of", "shots", "rule", "metric", "stop", *sizes, "files")
    for task in tasks:
        made.add_row(
            task.name,
            task.split or "documents",
            str(task.shots),
            task.kind.normalize,
            task.metric,
            " ".join(map(repr, task.kind.stop)),
            *reported(task.figures(task.metric, "", task.shots), digits=1 if task.scale > 1 else 3),
            " and ".join(task.files.names) if task.files else "documents",
        )
    return text(made)
