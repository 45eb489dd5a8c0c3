"""Which rows of a benchmark stand in a corpus, so that clean and dirty ones are scored apart.

    rows  ▶  index of n-grams  ◀  documents, once through  ▶  Contact a row  ▶  groups of a score

Brown et al., 2020, appendix C: a row is dirty if 13 words of it in a row stand in any document. The
rule is told in full in `llama_cli.overlap.index`. Memory holds the rows' n-grams and no document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import orjson

from llama_cli.errors import DataError, LlamaError
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.request import Graded
from llama_cli.evaluation.rows import official
from llama_cli.evaluation.shapes import TEXT, WHOLE, Shape, match
from llama_cli.evaluation.task import Task
from llama_cli.overlap.index import Index, build, find
from llama_cli.overlap.rows import strings
from llama_cli.records import Document, parsed
from llama_cli.stream.reader import read_lines, shown

Subset = Literal["clean", "dirty", "short"]
Seen = tuple[str, Sequence[int]]  # a document's id, and the rows it has text of
SHAPES: Mapping[str, Shape] = {
    "task": TEXT,
    "id": TEXT,
    "subset": ("clean, dirty or short", lambda value: value in ("clean", "dirty", "short")),
    "documents": WHOLE,
    "first": TEXT,
}
Sweep = Callable[[Index], Iterable[Seen | None]]


@dataclass(frozen=True, slots=True)
class Contact:
    """What a corpus has of one row: in how many documents it stands, and the first one's id.

    A row is "short" where all its texts are: nothing can be told of it.
    """

    task: str
    id: str
    subset: Subset
    documents: int = 0
    first: str = ""

    @classmethod
    def from_json(cls, line: bytes) -> Contact:
        """Read one line.

        Raises:
            ValueError: it is none.
        """
        row = parsed(line)
        if not isinstance(row, dict) or set(row) != set(cls.__dataclass_fields__):
            raise ValueError(f"a contact has the fields {', '.join(cls.__dataclass_fields__)}")
        match(row, SHAPES)
        return cls(**row)

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(asdict(self))


def look(document: Document, index: Index) -> Seen | None:
    """Find the rows that a document has text of."""
    overlap = find(index, document.text)
    return None if overlap is None else (document.id, overlap.rows)


def contacts(tasks: Iterable[Task], data: Data, sweep: Sweep, n: int) -> Iterator[Contact]:
    """Index the rows of tasks, `sweep` a corpus for them, and tell of each row, in order.

    Documents that a task measures whole are no rows.
    """
    names: list[tuple[str, str]] = []

    def rows() -> Iterator[tuple[int, list[str]]]:
        for part, task in enumerate(tasks):
            for number, (where, line, row) in enumerate(data.rows(task) if task.files else ()):
                with official(where, line, task.name):
                    name = task.id(row)
                names.append((task.name, str(number if name is None else name)))
                yield part, list(strings(row))

    index = build(rows(), n)
    counts, first = _counted(sweep(index))
    for at, (task_name, row_name) in enumerate(names):
        subset: Subset = "dirty" if at in counts else "clean" if index.told[at] else "short"
        yield Contact(task_name, row_name, subset, counts.get(at, 0), first.get(at, ""))


def _counted(seen: Iterable[Seen | None]) -> tuple[dict[int, int], dict[int, str]]:
    counts: dict[int, int] = {}
    first: dict[int, str] = {}
    for each in seen:
        name, rows = each or ("", ())
        for row in rows:
            counts[row] = counts.get(row, 0) + 1
            first.setdefault(row, name)
    return counts, first


def read_contacts(where: str) -> Iterator[Contact]:
    """Read what `llama eval overlap` has written.

    Raises:
        DataError: a line is no contact.
    """
    for name, number, line in read_lines([where]):
        try:
            yield Contact.from_json(line)
        except ValueError as error:
            raise DataError(shown(name), number, str(error)) from None


def apart(graded: Iterable[Graded], found: Iterable[Contact]) -> Iterator[Graded]:
    """Put each graded row into the group of its subset; rows that were not looked for stay.

    Raises:
        LlamaError: none was looked for, so these are contacts of something else.
    """
    subsets: Mapping[tuple[str, str], str] = {(each.task, each.id): each.subset for each in found}
    known = not subsets
    for row in graded:
        subset = subsets.get((row.task, row.id))
        if subset is None:
            yield row
        else:
            known = True
            groups = [*row.meta.get("groups", ()), subset]
            yield replace(row, meta={**row.meta, "groups": groups})
    if not known:
        raise LlamaError("no row is among those that overlap was looked for")
