"""A look at a benchmark's files before they are scored: are they whole, and are they right?

Copies of benchmarks go wrong in ways that a score does not show: rows are missing, a label points
past the options (one public copy of ARC has 102 such rows), a question stands twice. An error is
a row that cannot be scored as its authors meant; a note is what should be known of a result.
Labels are judged by the fields of the official formats, so that a row is told from its file alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b, sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from llama_cli.evaluation.data import Data, locate
from llama_cli.evaluation.labels import complaint
from llama_cli.evaluation.official import HASHES, official_rows
from llama_cli.evaluation.rows import WRONG, Placed, Row, unlike
from llama_cli.evaluation.task import Shots, Task

NAMED = 20  # findings of one kind that are told one by one; ours
IDS = ("id", "qID", "ind", "idx", "task_id", "question_id", "pair_id", "unique_id", "source_id")
ANSWERS = ("label", "answer", "answerKey", "answers")
BLOCK = 1 << 20  # bytes hashed at a time

Level = Literal["error", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found; `line` is 0 where it is of the whole file or task."""

    level: Level
    task: str
    where: str
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.where}:{self.line}" if self.line else self.where
        return f"{place or self.task}: {self.message}"

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        where = self.where.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return orjson.dumps({**asdict(self), "where": where})


def check_task(task: Task, data: Data) -> Iterator[Finding]:
    """Look at the files and rows of a benchmark; documents are not looked at."""
    if task.files is None:
        return
    found = locate(task.name, task.files, data.directories)
    yield from check_files(task.name, chain.from_iterable(found), task.files.directory)
    judge, name = partial(_judged, task), partial(_named, task)
    yield from check_rows(task.name, data.rows(task), judge=judge, name=name)


def check_worked(task: Task, data: Data) -> Iterator[Finding]:
    """Look at the rows that worked examples are made of, where they have files of their own."""
    shots = task.worked
    found = shots.files.find(data.directories) if shots and shots.files else None
    if shots is None or shots.files is None or found is None:
        return
    wrong = 0
    for where, line, row in shots.files.read(found):
        if message := complaint(row) or _unworked(shots, row):
            wrong += 1
            yield Finding("error", task.name, where, line, message)
        if wrong == NAMED:
            return


def _unworked(shots: Shots, row: Row) -> str:
    try:
        shots.worked(row)
    except WRONG as error:
        return f"not in the official format ({unlike(error)})"
    return ""


def _judged(task: Task, row: Row) -> str:
    """Say what is wrong with a row by its format, or else what keeps it from being asked."""
    if wrong := complaint(row):
        return wrong
    try:
        task.kind.ask(row, task.header(row) + task.prompt(row))
        task.id(row), task.groups(row)
    except WRONG as error:
        return f"not in the official format ({unlike(error)})"
    return ""


def _named(task: Task, row: Row) -> Any:
    try:
        return task.id(row)
    except WRONG:
        return None  # it has been judged


def own_id(row: Row) -> Any:
    """Give the id that a row has, by the names that benchmarks have for it."""
    return next((row[name] for name in IDS if row.get(name) not in (None, "")), None)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Keep those that should stop a run."""
    return [each for each in findings if each.level == "error"]


# -- files --


def check_files(
    task: str, files: Iterable[Path], directory: str = "", *, known: Mapping[str, str] = HASHES
) -> Iterator[Finding]:
    """Compare each file whose published hash is known with it; `directory` is its benchmark's."""
    for path in files:
        wanted = known.get(f"{directory or task}/{path.name}")
        if wanted is None:
            continue
        found = file_hash(path)
        if found == wanted:
            message = f"the published file, byte for byte (sha256 {found[:12]}…)"
        else:
            message = f"not the published file: sha256 {found[:12]}…, where it has {wanted[:12]}…"
        yield Finding("note", task, str(path), 0, message)


def file_hash(path: Path) -> str:
    """Give the SHA-256 of a file, as it is on disk."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# -- rows --


def check_rows(
    task: str,
    rows: Iterable[Placed],
    *,
    judge: Callable[[Row], str] = complaint,
    name: Callable[[Row], Any] = own_id,
) -> Iterator[Finding]:
    """Check the label of each row, look for rows that stand twice, and count them."""
    count, twice = 0, Twice(task, name)
    told: Counter[Level] = Counter()
    for where, line, row in rows:
        count += 1
        wrong = judge(row)
        found = [Finding("error", task, where, line, wrong)] if wrong else []
        for finding in (*found, *twice.seen(where, line, row)):
            told[finding.level] += 1
            if told[finding.level] <= NAMED:
                yield finding
    if told["error"] > NAMED:
        yield Finding(
            "error", task, "", 0, f"{told['error']:,} rows with a wrong label or id in all"
        )
    if told["note"]:
        yield Finding("note", task, "", 0, f"{told['note']:,} rows or questions stand twice")
    yield count_finding(task, count)


def count_finding(task: str, count: int) -> Finding:
    """Say how many of how many rows there are; none is an error.

    >>> str(count_finding("piqa", 919))
    'piqa: 919 of 1,838 rows'
    """
    known = official_rows(task)
    if count == 0:
        return Finding("error", task, "", 0, "no rows")
    if known is None:
        return Finding(
            "note", task, "", 0, f"{count:,} rows; how many there should be is not known"
        )
    if count > known:
        return Finding("note", task, "", 0, f"{count:,} rows, more than the official {known:,}")
    return Finding("note", task, "", 0, f"{count:,} of {known:,} rows")


class Twice:
    """Rows seen so far: by their content without an id, without their answer, and by their id.

    Of each row digests are held, and where it was.
    """

    def __init__(self, task: str, name: Callable[[Row], Any] = own_id) -> None:
        self.task, self.name = task, name
        self._places: dict[bytes, tuple[str, int]] = {}

    def seen(self, where: str, line: int, row: Row) -> Iterator[Finding]:
        """Tell if the same row, or its question, or another of the same id was there before.

        Two rows of one id cannot be told apart in a comparison of runs, which is an error.
        """
        place = where, line
        content = {name: value for name, value in row.items() if name not in IDS}
        question = {name: value for name, value in content.items() if name not in ANSWERS}
        if first := self._before("row", content, place):
            yield self._finding("note", place, f"the same row as {_at(first, where)}")
        elif len(question) < len(content) and (first := self._before("asked", question, place)):
            told = f"the same question as {_at(first, where)}, with another answer"
            yield self._finding("note", place, told)
        name = self.name(row)
        if name is not None and (first := self._before("id", name, place)):
            yield self._finding("error", place, f"its id {name!r} is that of {_at(first, where)}")

    def _before(self, kind: str, value: Any, place: tuple[str, int]) -> tuple[str, int] | None:
        """Say where the same was before, and keep the place if it was not."""
        text = orjson.dumps([kind, value], option=orjson.OPT_SORT_KEYS, default=str)
        first = self._places.setdefault(blake2b(text, digest_size=8).digest(), place)
        return first if first != place else None

    def _finding(self, level: Level, place: tuple[str, int], message: str) -> Finding:
        return Finding(level, self.task, *place, message)


def _at(place: tuple[str, int], where: str) -> str:
    return f"line {place[1]}" if place[0] == where else f"{place[0]}:{place[1]}"
