"""Finding and reading what a task is scored on: official files, or documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cli.errors import NotReadyError
from llama_cli.evaluation.rows import Files, Found, Placed
from llama_cli.evaluation.task import Task
from llama_cli.records import Document


@dataclass(frozen=True, slots=True)
class Data:
    """Where the rows of every task come from."""

    directories: Sequence[Path] = ()  # of benchmarks
    read: Callable[[], Iterable[Document]] = tuple  # held-out documents, opened when wanted
    watch: Callable[[Iterator[Any]], Iterator[Any]] = iter  # to show progress

    def rows(self, task: Task) -> Iterator[Placed]:
        """Yield the rows of a task; a document is the row {"id", "text"}."""
        if task.files is None:
            return self._documents()
        return task.files.read(locate(task.name, task.files, self.directories))

    def _documents(self) -> Iterator[Placed]:
        for number, document in enumerate(self.read(), 1):
            yield "documents", number, {"id": document.id, "text": document.text}


def locate(name: str, files: Files, directories: Sequence[Path]) -> Found:
    """Find the files of a task.

    Raises:
        NotReadyError: no directory has them all.
    """
    if found := files.find(directories):
        return found
    where = ", ".join(map(str, directories)) or "any --data DIR"
    raise NotReadyError(
        f"{name} needs {' and '.join(files.names)}, and they are not in {where}",
        hint=f"llama eval {name} --data DIR",
    )
