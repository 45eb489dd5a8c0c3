"""Rows of official files, each with its place, so that whatever is wrong is told as FILE:LINE."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llama_cli.errors import DataError
from llama_cli.records import parsed
from llama_cli.stream.reader import read_chunks, read_lines

Row = Mapping[str, Any]
Placed = tuple[str, int, Row]  # its file, its line, and itself
Found = Sequence[Sequence[Path]]  # the files behind each name of `Files`
Read = Callable[[Found], Iterator[Placed]]

WRONG = (KeyError, TypeError, ValueError, IndexError, AttributeError)  # of a row of another format


def unlike(error: Exception) -> str:
    """Say what a row lacks that its official format has.

    >>> unlike(KeyError("goal")), unlike(ValueError("label 7 is outside its 2 options"))
    ("no 'goal'", 'label 7 is outside its 2 options')
    """
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


@contextmanager
def official(where: str, line: int, of: str = "") -> Iterator[None]:
    """Name the row that is not in the official format, and whose it is.

    Raises:
        DataError: it is not.
    """
    try:
        yield
    except WRONG as error:
        whose = f"{of}: a row that is " if of else ""
        what = f"{whose}not in the official format ({unlike(error)})"
        raise DataError(where, line, what) from None


def read_jsonl(found: Found) -> Iterator[Placed]:
    """Yield the object of each line of the files of the first name.

    Raises:
        DataError: a line is no JSON object. A score on part of a benchmark is none.
    """
    for path in found[0]:
        for where, number, line in read_lines([str(path)]):
            try:
                row = parsed(line)
            except ValueError as error:
                raise DataError(where, number, str(error)) from None
            if not isinstance(row, dict):
                raise DataError(where, number, "a JSON object is wanted")
            yield where, number, row


def read_labelled(*labels: str) -> Read:
    """Read rows whose labels stand in a file of their own, a line for each: row["label"]."""
    allowed = {label.encode() for label in labels}
    wanted = f"a label, {' or '.join(labels)}, is wanted for each row"

    def read(found: Found) -> Iterator[Placed]:
        path = str(found[1][0])
        marks = read_lines([path])
        for place, number, row in read_jsonl(found):
            where, line, mark = next(marks, (path, number, b""))
            if mark.strip() not in allowed:
                raise DataError(where, line, wanted)
            yield place, number, {**row, "label": mark.strip().decode()}
        for where, line, _ in marks:
            raise DataError(where, line, "a label without a row")

    return read


def read_table(path: Path, names: Sequence[str] = (), *, tabs: bool = False) -> Iterator[Placed]:
    """Yield the rows of a CSV file, or one with tabs; without `names` its first line has them.

    Raises:
        DataError: a row has more or fewer cells than there are names, or no end.
    """
    lines = (line.decode("utf-8-sig" if n == 1 else "utf-8") for _, n, line in _lines(path))
    if tabs:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)  # else a file may end inside a cell
    try:
        columns = list(names) or next(reader, [])
        for cells in reader:
            if not cells:  # a blank line
                continue
            if len(cells) != len(columns):
                wanted = f"{len(cells)} cells, not {len(columns)} ({', '.join(columns)})"
                raise DataError(str(path), reader.line_num, wanted)
            yield str(path), reader.line_num, dict(zip(columns, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(str(path), reader.line_num, str(error)) from None


def read_object(path: Path) -> dict[str, Any]:
    """Give the one JSON object that a file holds.

    Raises:
        DataError: it holds something else.
    """
    try:
        row = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(str(path), error.lineno, f"not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise DataError(str(path), 1, "a JSON object is wanted")
    return row


def _lines(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Yield the lines of a table with their ends, blank ones too: a cell may hold them."""
    for chunk in read_chunks(str(path)):
        for number, line in enumerate(chunk.lines, chunk.line):
            yield chunk.where, number, line + b"\n"


@dataclass(frozen=True, slots=True)
class Files:
    """Which files hold the rows, and how they are read.

    A name may be a pattern ("test/*_test.csv"), or several of which the first that is there is
    taken ("HumanEval.jsonl.gz or HumanEval.jsonl").
    """

    directory: str  # beside those of other benchmarks
    names: tuple[str, ...]
    read: Read = read_jsonl

    def find(self, directories: Sequence[Path]) -> Found | None:
        """Find them in one of `directories`, or in the one there that has their name."""
        for each in directories:
            for place in (each / self.directory, each):
                found = [_first(place, name) for name in self.names]
                if all(found):
                    return found
        return None


def _first(place: Path, name: str) -> list[Path]:
    for pattern in name.split(" or "):
        if found := sorted(path for path in place.glob(pattern) if path.is_file()):
            return found
    return []
