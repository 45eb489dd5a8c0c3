"""Tables of plain text for people."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.table import Table

SIZES = ("7B", "13B", "33B", "65B")
LEFT = ("task", "model", "metric", "files", "rows of", "rule", "stop", "shots from")


def table(*columns: str) -> Table:
    """Begin a table; words stand on the left, numbers on the right."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in LEFT else "right"
        made.add_column(column, justify=justify, no_wrap=True)
    return made


def text(made: Table, *, width: int = 400) -> str:
    """Write it out; a line is as long as it must be."""
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, force_terminal=False).print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def reported(figures: Mapping[str, float], *, digits: int = 1) -> list[str]:
    """Give the paper's figure for each size, as it prints them."""
    return [f"{figures[size]:.{digits}f}" if size in figures else "" for size in SIZES]
