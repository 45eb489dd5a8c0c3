"""Scores and the paper's figures, cell by cell: one table for each of the paper's, as text,
GitHub's Markdown or JSON.

Ours comes first, then LLaMA by size, then the other models in the order of the paper. A figure of
the paper that lies within our interval is marked, and what differs in protocol stands below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from llama_cli.evaluation.beside import Entry
from llama_cli.evaluation.published import TITLES, Cell, Table
from llama_cli.evaluation.statistics import Interval
from llama_cli.evaluation.tables import lay_out

MARK = "≈"
LEGEND = (
    f"{MARK} lies within our 95% interval; shows is how far another model's figure must be from "
    "ours for as many rows to show it, four times in five"
)
ELSEWHERE = "not in the paper"
PERCENT = ("accuracy", "exact_match", "pass@", "maj1@")  # how names of shares begin
PLAIN_DIGITS = 4  # of figures that are in no table and no percentage; ours
ASKED = ("prompt", "seed", "samples", "temperature", "tier", "scorer")  # told of a protocol
BREAK = 7  # characters of a model's name that stay in one line; ours


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the paper, as far as we have its rows; `table` is None for what it has not."""

    table: Table | None
    columns: tuple[tuple[str, ...], ...]  # each a head, of a model two lines: name and size
    rows: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        """Name the table."""
        return ELSEWHERE if self.table is None else f"Table {self.table}: {TITLES[self.table]}"


def sections(entries: Sequence[Entry]) -> list[Section]:
    """Sort entries into tables, in the order of the paper, what it has not last."""
    order = sorted(entries, key=_number)  # stable: within a table, the order of the scores
    return [_section(table, list(part)) for table, part in groupby(order, key=_table)]


def _table(entry: Entry) -> Table | None:
    return entry.published.table if entry.published else None


def _number(entry: Entry) -> float:
    table = _table(entry)
    return float(table) if isinstance(table, int) else float("inf")


def _section(table: Table | None, entries: list[Entry]) -> Section:
    several = len({entry.score.model for entry in entries}) > 1
    models = _models(entries)
    heads = [("task",), ("metric",), *([("model",)] * several), ("ours",), ("95%",), ("shows",)]
    return Section(
        table,
        (*heads, *models),
        tuple(_row(entry, several, models) for entry in entries),
    )


def _models(entries: list[Entry]) -> list[tuple[str, str]]:
    """List the models of a table, LLaMA before the others."""
    cells = [cell for each in entries if each.published for cell in each.published.cells]
    names = dict.fromkeys((cell.model, cell.size) for cell in cells)
    return sorted(names, key=lambda name: not name[0].startswith("LLaMA"))


def _row(entry: Entry, several: bool, models: list[tuple[str, str]]) -> tuple[str, ...]:
    score = entry.score
    cells = entry.published.cells if entry.published else ()
    known = {(cell.model, cell.size): cell for cell in cells}
    return (
        named(entry),
        score.metric,
        *([score.model] * several),
        figure(entry, score.value),
        _ends(entry, entry.interval),
        "" if entry.smallest is None else figure(entry, entry.smallest),
        *(_cell(entry, known.get(model)) for model in models),
    )


def named(entry: Entry) -> str:
    """Name what a score is of: the paper's word where it has one, and its shots where it varies."""
    score, found = entry.score, entry.published
    if found is None:
        return " ".join(filter(None, [score.task, score.group, f"{score.shots}-shot"]))
    name = found.benchmark.partition("/")[2] or found.benchmark
    return f"{name} {found.setting}" if found.table in {4, 5, 11} else name


def figure(entry: Entry, value: float) -> str:
    """Write a value with the digits that the paper has."""
    if found := entry.published:
        digits = {"percent": 1, "fraction": 2 if found.table == 14 else 3}.get(found.unit, 0)
    else:
        digits = 1 if entry.score.metric.startswith(PERCENT) else PLAIN_DIGITS
    return f"{value:.{digits}f}"


def _ends(entry: Entry, interval: Interval | None) -> str:
    return " to ".join(figure(entry, end) for end in interval) if interval else ""


def _cell(entry: Entry, cell: Cell | None) -> str:
    if cell is None:
        return ""
    return f"{MARK if entry.within(cell) else ''}{figure(entry, cell.value)}"


def notes(entries: Sequence[Entry]) -> Iterator[str]:
    """Say once for each task and model how it was asked, and what differs from the paper."""
    parts: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.score.group:
            parts.setdefault(f"{entry.score.task} ({asked(entry)})", []).append(entry)
    for head, part in parts.items():
        nothing = "nothing known to differ" if any(e.published for e in part) else ELSEWHERE
        said = dict.fromkeys(word for entry in part for word in entry.differs)
        yield f"{head}: {'; '.join(said) or nothing}"


def asked(entry: Entry) -> str:
    """Say how a score was asked for: what a second run must share to be compared."""
    score, protocol = entry.score, entry.score.protocol
    said = [
        score.model,
        f"{score.rows:,} rows" if score.rows else "",
        str(protocol.get("split", "")),
        f"{score.shots} shots",
        f"by {score.normalization}",
        *(f"{name} {protocol[name]}" for name in ASKED if name in protocol),
        "begin mark" if protocol.get("bos") else "",
    ]
    return ", ".join(word for word in said if word)


def as_text(entries: Sequence[Entry]) -> str:
    """Lay the tables out for a terminal."""
    parts = []
    for section in sections(entries):
        heads = ["\n".join([_broken(head[0]), *head[1:]]) for head in section.columns]
        left = (heads[0], heads[1])
        parts += [section.title, lay_out(heads, section.rows, left=left), ""]
    return "\n".join([*parts, LEGEND, *notes(entries)])


def _broken(name: str) -> str:
    return name.replace("-", "-\n") if len(name) > BREAK else name


def as_markdown(entries: Sequence[Entry]) -> str:
    """Write the tables as GitHub shows them."""
    parts = ["# Scores beside the paper", ""]
    for section in sections(entries):
        heads = [" ".join(head) for head in section.columns]
        lines = ["---" if place < 2 else "--:" for place in range(len(heads))]
        rows = [heads, lines, *section.rows]
        parts += [f"## {section.title}", "", *map(_markdown_row, rows), ""]
    return "\n".join([*parts, LEGEND, "", *(f"- {_escaped(note)}" for note in notes(entries)), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    r"""Keep what a cell holds from being read as Markdown.

    >>> _escaped("a|b*c_d\ne")
    'a\\|b\\*c\\_d e'
    """
    for sign in ("\\", "|", "*", "_", "`", "<"):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def as_json(entries: Sequence[Entry]) -> dict[str, Any]:
    """Give all of it as one object."""
    return {
        "schema": 1,
        "paper": "https://arxiv.org/abs/2302.13971",
        "scores": [entry.as_json() for entry in entries],
    }
