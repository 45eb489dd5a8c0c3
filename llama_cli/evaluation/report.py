"""Results as a table that people read: ours, its error, and LLaMA's figures of the paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llama_cli.evaluation.layout import SIZES, reported, table, text
from llama_cli.evaluation.summary import PLAIN
from llama_cli.evaluation.tasks import TASKS
from llama_cli.records import Score


def results(scores: Iterable[Score]) -> str:
    """Lay out each score with the number of rows behind it, beside the paper's, and its notes."""
    sizes = (f"LLaMA-{size}" for size in SIZES)
    scores = list(scores)
    several = len({score.model for score in scores}) > 1
    made = table("task", *(["model"] if several else []), "metric", "value", "±", "rows", *sizes)
    notes: dict[tuple[str, str], str] = {}
    for score in scores:
        plain = score.metric in PLAIN or TASKS[score.task].scale == 1
        digits = 4 if plain else 1  # the paper prints one
        made.add_row(
            f"{score.task} {score.group}".rstrip(),
            *([score.model] if several else []),
            f"{score.metric} /{score.normalization}",
            f"{score.value:.{digits}f}",
            "" if score.stderr is None else f"{score.stderr:.{digits}f}",
            f"{score.rows:,}",
            *reported(score.reported, digits=3 if plain else 1),
        )
        who = f"{score.task} ({score.model})" if several else score.task
        notes.setdefault((score.task, score.model), f"{who}: {'; '.join(told(score))}")
    return "\n".join([text(made), *notes.values()])


def told(score: Score) -> Iterator[str]:
    """Say how the rows of a score were asked."""
    facts: dict[str, Any] = dict(score.protocol)
    if split := facts.pop("split", ""):
        yield f"rows of {split}"
    yield f"{score.shots} shots"
    yield f"seed {facts.pop('seed', 0)}"
    bos = facts.pop("bos", None)
    yield {True: "begin mark", False: "no begin mark", None: "begin mark not known"}[bos]
    yield f"prompts {facts.pop('prompt', '')}"
    note = facts.pop("note", "")
    if cut := facts.pop("cut", 0):
        yield f"{cut} shots taken from the test rows, which are fewer by as many"
    if lost := facts.pop("truncated", 0):
        yield f"{lost:,} of {score.rows:,} prompts lost their beginning to fit the context"
    if fewer := facts.pop("fewer_shots", 0):
        yield f"{fewer:,} of {score.rows:,} prompts have fewer shots, to fit the context"
    for name, value in facts.items():
        yield f"{name} {value}"
    if note:
        yield note
