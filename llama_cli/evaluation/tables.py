"""Rows of words as a table that people read: columns in line, nothing wrapped, no colour."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from llama_cli.evaluation.layout import text


def lay_out(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[str] = ()
) -> str:
    r"""Lay out a table; columns named in `left` begin at their left, and the others end in line.

    >>> print(lay_out(["task", "n"], [["[b]piqa", "9"], ["nq", "10"]], left=["task"]))
    task      n
    [b]piqa   9
    nq       10
    """
    made = Table(box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        made.add_column(Text(column), justify=justify, no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, row))  # as it is: brackets are no markup
    return text(made)
