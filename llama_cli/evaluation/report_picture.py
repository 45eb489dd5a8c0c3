"""Scores beside the paper's figures as a picture: a line for each, a panel for each table.

Ours is a red diamond with its 95% interval; LLaMA's sizes are circles from light to dark, and
other models are grey, each with a mark of its own that is named below.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llama_cli.errors import LlamaError
from llama_cli.evaluation.beside import Entry
from llama_cli.evaluation.published import TITLES, Cell
from llama_cli.evaluation.report_tables import named

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = "ours, 95%"
OURS = "#c1121f"
LLAMA = {"7B": "#b8d4ea", "13B": "#7fb0d8", "33B": "#3f7fb8", "65B": "#12426f"}
OTHERS = "#555555"
BAND = "#f3f3f3"  # behind every second line
MARKS = "^vs<>PXpd*hH8D1234+x|_"  # one for each other model, in the order of the paper
UP, DOWN = -0.18, 0.16  # of a line: ours above, the paper's below; ours
ROW, HEAD, FOOT = 0.4, 0.75, 1.5  # inches of a line, of a panel's title and axis, of the legend


def draw(entries: Sequence[Entry], *, dpi: int = 120) -> bytes:
    """Draw what the paper has too, as PNG.

    Raises:
        LlamaError: the paper has none of them.
    """
    from matplotlib.figure import Figure  # slow to import, and wanted only here

    panels = _panels(entries)
    if not panels:
        raise LlamaError("none of these scores is in the paper, so there is nothing to draw")
    marks = _marks(entries)
    heights = [len(rows) * ROW + HEAD for rows in panels.values()]
    figure = Figure(figsize=(9, sum(heights) + FOOT), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (title, rows) in zip(grid[:, 0], panels.items(), strict=True):
        _panel(axes, title, rows, marks)
    _legend(figure, grid[:, 0])
    out = io.BytesIO()
    figure.savefig(out, dpi=dpi, format="png")
    return out.getvalue()


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """Name every mark once, ours and LLaMA's first."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        found, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, found, strict=True))
    first = (OWN, *(f"LLaMA {size}" for size in LLAMA))
    names = sorted(handles, key=lambda name: first.index(name) if name in first else len(first))
    shown = [handles[name] for name in names]
    figure.legend(shown, names, loc="outside lower center", ncols=5, fontsize=8)


def _panels(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    known = [entry for entry in entries if entry.published]
    for table, title in TITLES.items():
        rows = [each for each in known if each.published and each.published.table == table]
        if rows:
            units = {each.published.unit for each in rows if each.published}
            found[f"Table {table}: {title}, {' and '.join(sorted(units))}"] = rows
    return found


def _marks(entries: Sequence[Entry]) -> dict[str, str]:
    """Give each other model its mark."""
    cells = [cell for each in entries if each.published for cell in each.published.cells]
    names = dict.fromkeys(_label(cell) for cell in cells if cell.model != "LLaMA")
    return {name: MARKS[place % len(MARKS)] for place, name in enumerate(names)}


def _label(cell: Cell) -> str:
    return f"{cell.model} {cell.size}"


def _panel(axes: Axes, title: str, rows: list[Entry], marks: dict[str, str]) -> None:
    for line, entry in enumerate(rows):
        if line % 2:
            axes.axhspan(line - 0.5, line + 0.5, color=BAND, zorder=0)
        for cell in entry.published.cells if entry.published else ():
            _point(axes, cell, line + DOWN, marks)
        _own(axes, entry, line + UP)
    axes.set_yticks(range(len(rows)), [_line(entry, rows) for entry in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _line(entry: Entry, rows: list[Entry]) -> str:
    metrics = {each.score.metric for each in rows}
    models = {each.score.model for each in rows}
    more = [entry.score.metric] * (len(metrics) > 1) + [entry.score.model] * (len(models) > 1)
    return ", ".join([named(entry), *more])


def _point(axes: Axes, cell: Cell, line: float, marks: dict[str, str]) -> None:
    label = _label(cell)
    if cell.model == "LLaMA":
        color = LLAMA.get(cell.size, OTHERS)
        axes.plot(
            cell.value, line, "o", color=color, markersize=7, markeredgecolor="#12426f",
            markeredgewidth=0.6, linestyle="none", label=label, zorder=3,
        )  # fmt: skip
    else:
        axes.plot(
            cell.value, line, marks[label], color=OTHERS, markersize=5, markerfacecolor="none",
            markeredgewidth=0.9, linestyle="none", label=label, zorder=2,
        )  # fmt: skip


def _own(axes: Axes, entry: Entry, line: float) -> None:
    value = entry.score.value
    low, high = entry.interval or (value, value)
    axes.errorbar(
        value, line, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="D",
        color=OURS, markersize=8, capsize=4, linewidth=1.8, label=OWN, zorder=4,
    )  # fmt: skip
