"""The texts of benchmark rows, out of files in whatever shape their authors publish them.

    {"question": {"stem": "Which ..."}, "answerKey": "B"}   ▶   "Which ...", "B"

Every string of a row is one of its texts, and so is every key that is more than one word:
TruthfulQA writes its answers as keys. A row is a JSON line, a row of a table (.csv, .tsv), or an
item of the one list in a .json file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from llama_cli.errors import DataError, LlamaError, NotReadyError
from llama_cli.records import parsed
from llama_cli.stream.reader import read_bytes, read_lines, shown

KINDS = (".jsonl", ".json", ".csv", ".tsv")  # read from a directory, compressed or not
PACKED = (".gz", ".zst", ".xz", ".bz2")
WIDEST = 1 << 28  # characters of a cell; ours: csv's own 128 KiB is a page


def strings(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value.

    >>> list(strings({"a": ["x", 1, {"two words": "y"}]}))
    ['x', 'two words', 'y']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if " " in key:
                yield key
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


def read_texts(paths: Iterable[Path]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the number of its file, its place and its texts for each row.

    A directory stands for all such files in it.

    Raises:
        NotReadyError: there is no such file, or none in a directory.
        DataError: a line is not JSON.
    """
    files = [file for path in paths for file in _files(path)]
    for number, file in enumerate(files):
        for line, row in _rows(file):
            yield number, f"{file}:{line}", list(strings(row))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise NotReadyError(f"no file or directory {path}")
        return [path]
    files = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) in KINDS)
    if not files:
        raise NotReadyError(f"{path} has no rows: no {', '.join(KINDS)} is in it")
    return files


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    kind = _kind(path)
    if kind in (".csv", ".tsv"):
        yield from _cells(path, "\t" if kind == ".tsv" else ",")
    elif kind == ".json" and (whole := _whole(path)) is not None:
        yield from enumerate(whole, 1)
    else:
        yield from _objects(path)


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    text = b"".join(read_bytes(str(path))).decode("utf-8-sig", "replace")
    csv.field_size_limit(WIDEST)
    lines = io.StringIO(text, newline="")
    if delimiter == ",":
        reader = csv.reader(lines)
    else:
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise LlamaError(f"{path}:{reader.line_num}: {error}") from None


def _whole(path: Path) -> list[Any] | None:
    """Read a file that is one JSON value; None if it is JSON lines by another name."""
    try:
        value = orjson.loads(b"".join(read_bytes(str(path))))
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, dict):
        lists = [each for each in value.values() if isinstance(each, list)]
        return lists[0] if len(lists) == 1 else [value]
    return value if isinstance(value, list) else [value]


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    for where, number, line in read_lines([str(path)]):
        try:
            yield number, parsed(line)
        except ValueError as error:
            raise DataError(shown(where), number, str(error)) from None
