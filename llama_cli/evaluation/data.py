"""Finding and reading what a task is scored on: official files, or documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from llama_cli.errors import DataError, NotReadyError
from llama_cli.evaluation.task import Choice, Row
from llama_cli.records import Document
from llama_cli.stream.reader import read_lines


@dataclass(frozen=True, slots=True)
class Data:
    """Where the rows of every task come from."""

    directories: Sequence[Path]  # of benchmarks
    read: Callable[[], Iterable[Document]]  # held-out documents, opened when wanted
    limit: int | None = None  # rows of each task
    watch: Callable[[Iterator[Row]], Iterator[Row]] = iter  # to show progress

    def rows(self, task: Choice) -> Iterator[Row]:
        """Yield the rows of a benchmark."""
        return self.watch(islice(task.read(locate(task, self.directories)), self.limit))

    def documents(self) -> Iterator[Document]:
        """Yield the documents."""
        return islice(self.read(), self.limit)


def locate(task: Choice, directories: Sequence[Path]) -> list[Path]:
    """Find the task's files in one of `directories`, or in the one there with its name.

    Raises:
        NotReadyError: no directory has them all.
    """
    for directory in directories:
        for place in (directory / task.dataset, directory):
            paths = [place / name for name in task.files]
            if all(path.is_file() for path in paths):
                return paths
    where = ", ".join(map(str, directories)) or "any --data DIR"
    raise NotReadyError(
        f"{task.name} needs {' and '.join(task.files)}, and they are not in {where}",
        hint=f"llama eval {task.name} --data DIR",
    )


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the line number and the object of each line of a JSONL file.

    Raises:
        DataError: a line is no JSON object. A score on part of a benchmark is none.
    """
    for where, number, line in read_lines([str(path)]):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(where, number, f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(where, number, "a JSON object is wanted")
        yield number, row
