"""Which worked examples are shown: the same for every row, whatever their order or number.

The rows that are drawn are those whose number and seed hash lowest, so five shots are the first
five of 64, and neither a limit nor the number of processes changes them.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from llama_cli.errors import UsageError
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.rows import Placed, Row, official
from llama_cli.evaluation.task import Shots, Task


@dataclass(frozen=True, slots=True)
class Shown:
    """Worked examples as they are written, by what their rows share with those they serve."""

    texts: Mapping[str, list[str]] = field(default_factory=dict)
    among: Shots = field(default_factory=Shots)
    cut: frozenset[int] = frozenset()  # numbers of test rows that became examples

    def before(self, row: Row) -> list[str]:
        """Give those that go before a row.

        Raises:
            ValueError: there are none, and others have some.
        """
        among = self.among.among(row)
        if self.texts and among not in self.texts:
            raise ValueError(f"no worked examples of {among}")
        return self.texts.get(among, [])


def choose(task: Task, data: Data, *, count: int, seed: int, texts: tuple[str, ...] = ()) -> Shown:
    """Choose `count` examples for a task: `texts`, its own, or rows.

    Raises:
        UsageError: there are fewer.
    """
    shots = task.worked
    if count == 0 or shots is None:
        return Shown()
    if written := texts or shots.texts[:count]:
        return Shown({"": list(written)})
    found = shots.files.find(data.directories) if shots.files else None
    rows = shots.files.read(found) if shots.files and found else data.rows(task)
    picked = _picked(rows, shots, count, seed)
    for among, numbered in picked.items():
        if len(numbered) < count:
            of = f" of {among}" if among else ""
            raise UsageError(
                f"{task.name}: {count} shots{of} are wanted, there are {len(numbered)}"
            )
    if not picked:
        raise UsageError(f"{task.name}: {count} shots are wanted, there are 0")
    cut = frozenset(number for each in picked.values() for number, _ in each) if not found else ()
    written_rows = {name: [_written(shots, p) for _, p in each] for name, each in picked.items()}
    return Shown(written_rows, shots, frozenset(cut))


def _picked(
    rows: Iterable[Placed], shots: Shots, count: int, seed: int
) -> dict[str, list[tuple[int, Placed]]]:
    """Keep the `count` first of each part, in the order of the file or of the draw."""
    parts: dict[str, list[tuple[int, int, Placed]]] = defaultdict(list)
    for number, placed in enumerate(rows):
        rank = _rank(seed, number) if shots.drawn else number
        part = parts[shots.among(placed[2])]
        heapq.heappush(part, (-rank, number, placed))
        if len(part) > count:
            heapq.heappop(part)
    return {
        name: [(number, placed) for _, number, placed in sorted(part, reverse=True)]
        for name, part in parts.items()
    }


def _rank(seed: int, number: int) -> int:
    return int.from_bytes(blake2b(f"{seed} {number}".encode(), digest_size=8).digest(), "big")


def _written(shots: Shots, placed: Placed) -> str:
    where, line, row = placed
    with official(where, line):
        return shots.worked(row)


def without(rows: Iterable[Placed], cut: frozenset[int]) -> Iterator[tuple[int, Placed]]:
    """Number rows from 0, and leave out those that became examples."""
    return (each for each in enumerate(rows) if each[0] not in cut)
