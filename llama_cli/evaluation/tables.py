"""Rows as a table that people read: columns in line, nothing wrapped, no colour."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

WIDTH = 400  # characters that no table reaches; ours: a terminal wraps what it has no room for


def lay_out(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[str] = ()
) -> str:
    r"""Lay out a table; columns named in `left` begin at their left, and the others end in line.

    >>> print(lay_out(["task", "n"], [["piqa", "9"], ["nq", "10"]], left=["task"]))
    task   n
    piqa   9
    nq    10
    """
    table = Table(box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, no_color=True, force_terminal=False, markup=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
