"""Rows as the questions a model sees; no model is needed to look at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llama_cli.errors import LlamaError
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.task import Choice, Question, Row, Task


def show(task: Task, data: Data) -> Iterator[Question]:
    """Yield what a model would see; a document is the one choice after an empty prompt."""
    if isinstance(task, Choice):
        yield from ask(task, data.rows(task))
    else:
        for document in data.documents():
            yield Question(task.name, document.id, "", [document.text], 0)


def ask(task: Choice, rows: Iterable[Row]) -> Iterator[Question]:
    """Write each row as a question; rows without an id are numbered from 0.

    Raises:
        LlamaError: a row is not in the task's format.
    """
    for number, row in enumerate(rows):
        try:
            yield Question(
                task=task.name,
                id=str(row.get("id", number)),
                prompt=task.prompt(row),
                choices=task.choices(row),
                gold=task.gold(row),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LlamaError(
                f"{task.name}: row {number + 1} is not in the official format "
                f"({type(error).__name__}: {error})"
            ) from None
