"""A run in progress on a few lines: how far it is, its loss as a curve, its figures.

Drawn by hand, in a fifth of a millisecond: rich takes three to six for a frame, which would
be felt in the steps of a small model, and a tenth of a second to load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from llama_cli.training.view import View

CELL = 26  # characters of a figure with its name; ours
NAME = 11
ROWS = 4  # of the curve
LEAST = 24  # columns, below which there is only the line of progress
BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " ..::##@@"  # a column from empty to full
BAR, PLAIN_BAR = ("━", "─"), ("#", "-")


@dataclass(frozen=True, slots=True)
class Pen:
    """What the terminal can show."""

    colour: bool = False
    blocks: bool = True

    def dim(self, text: str) -> str:
        """Let a name stand back behind its figure."""
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def strong(self, text: str) -> str:
        """Show what needs to be seen."""
        return f"\x1b[1;31m{text}\x1b[0m" if self.colour else text

    def green(self, text: str) -> str:
        """Show how far it is."""
        return f"\x1b[32m{text}\x1b[0m" if self.colour else text


def draw(
    view: View, width: int, height: int, *, title: str, pen: Pen, state: str = ""
) -> list[str]:
    """Give lines of at most `width` characters, at most `height`; the curve gives way first.

    `state` is a word on how the run fares, when it is not simply running.
    """
    if width < LEAST or height < 4:
        return [_cut(f"{state or title}: {progress(view)}", width)]
    cells = list(_cells(view))
    columns = max(1, min(3, width // CELL))
    wide = width // columns
    table = [
        "".join(_cell(*cell, wide, pen) for cell in cells[start : start + columns]).rstrip()
        for start in range(0, len(cells), columns)
    ]
    head = [_head(view, title, state, width, pen), _bar(view, width, pen)]
    room = height - len(head) - len(table)
    curve = _curve(view, width, pen) if room >= ROWS else []
    return (head + curve + table)[:height]


def progress(view: View, *, rate: bool = False) -> str:
    """Say in words how far the run is, and how fast it goes."""
    last = view.last
    if not last:
        return "no step yet"
    whole = f" of {view.steps:,}" if view.steps else ""
    found = [f"step {view.step:,}{whole}", f"loss {last['loss']:.3f}"]
    if rate:
        found.append(f"{last['tokens_per_second']:,.0f} tokens/s")
    if left := view.seconds_left:
        found.append(f"{time_words(left)} left")
    return ", ".join(found)


def time_words(seconds: float) -> str:
    """Say a time in its two largest units.

    >>> time_words(59), time_words(100), time_words(3660), time_words(200_000)
    ('59 s', '1 min 40 s', '1 h 1 min', '2 d 7 h')
    """
    if not isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if not hours:
        return f"{minutes} min {whole % 60} s"
    return f"{days} d {hours % 24} h" if days else f"{hours} h {minutes % 60} min"


def size_words(count: float) -> str:
    """Say bytes in the unit that reads best.

    >>> size_words(1_234_000_000)
    '1.23 GB'
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"


def _head(view: View, title: str, state: str, width: int, pen: Pen) -> str:
    about = view.about
    facts = [about[name] for name in ("size", "device") if name in about]
    if about.get("processes", 1) > 1:
        facts[-1] = f"{about['processes']:,} x {facts[-1]}"
    text = "  ".join([title, *facts])
    if not state:
        return _cut(text, width)
    text = _cut(text, width - len(state) - 2)
    return f"{text}  {pen.strong(state)}" if text else pen.strong(_cut(state, width))


def _bar(view: View, width: int, pen: Pen) -> str:
    words = progress(view)
    room = width - len(words) - 2
    if room < 8 or not view.steps:
        return _cut(words, width)
    full, empty = BAR if pen.blocks else PLAIN_BAR
    done = min(room, room * view.step // view.steps)
    return f"{pen.green(full * done)}{pen.dim(empty * (room - done))}  {words}"


def _cells(view: View) -> Iterator[tuple[str, str]]:
    last, about = view.last, view.about
    if last:
        yield "loss", f"{last['loss']:.3f}"
    if view.validation:
        at = f" @{view.validation['step']:,}"
        yield "validation", _number("{:.3f}", view.validation.get("validation_loss")) + at
    if last:
        yield "grad norm", f"{last['grad_norm']:.3g}"
        yield "lr", f"{last['lr']:.3g}"
        yield "tokens", f"{last['tokens']:,}"
        yield "tokens/s", f"{last['tokens_per_second']:,.0f}"
        if about.get("processes", 1) > 1 and last.get("tokens_per_second_per_gpu"):
            yield "per GPU", f"{last['tokens_per_second_per_gpu']:,.0f}"
        yield "MFU", _number("{:.1%}", last.get("mfu"))
        yield "memory", size_words(last["memory"]) if last.get("memory") else "?"
        if last.get("watts") is not None:
            yield "power", f"{last['watts']:,.0f} W"
        if last.get("seconds") and last.get("data_wait") is not None:
            yield "data wait", f"{last['data_wait'] / last['seconds']:.1%}"
    if view.checkpoint is not None:
        yield "checkpoint", f"step {view.checkpoint:,}"
    if view.skipped:
        yield "skipped", f"{view.skipped:,} batches"
    if view.spike:
        yield "spike", f"{view.spike['spike']} @{view.spike['step']:,}"


def _number(form: str, value: float | None) -> str:
    return "?" if value is None else form.format(value)


def _cell(name: str, value: str, width: int, pen: Pen) -> str:
    return pen.dim(f"{name:<{NAME}}") + f"{_cut(value, width - NAME - 1):<{width - NAME}}"


def _curve(view: View, width: int, pen: Pen) -> list[str]:
    """Draw the loss as columns under it, with its highest and lowest value at the left."""
    points = view.curve.points()
    if len(points) < 2:
        return []
    margin = 8  # "  10.40 "
    heights = _resample([value for _, value in points], min(width - margin, 2 * len(points)))
    low, high = min(heights), max(heights)
    marks = BLOCKS if pen.blocks else PLAIN
    # the lowest is still seen: an eighth of a row
    eighths = [
        1 + round((8 * ROWS - 1) * (each - low) / (high - low)) if high > low else 4 * ROWS
        for each in heights
    ]
    lines = []
    for row in reversed(range(ROWS)):
        label = {ROWS - 1: f"{high:7.3f}", 0: f"{low:7.3f}"}.get(row, "")
        body = "".join(marks[max(0, min(8, each - 8 * row))] for each in eighths)
        lines.append(f"{pen.dim(f'{label:7}')} {body.rstrip()}")
    return lines


def _resample(values: Sequence[float], count: int) -> list[float]:
    """Give `count` values: means of neighbours, or each one several times."""
    size, found = len(values), []
    for column in range(count):
        start = column * size // count
        part = values[start : max(start + 1, (column + 1) * size // count)]
        found.append(sum(part) / len(part))
    return found


def _cut(text: str, width: int) -> str:
    return text[: max(0, width)]


Draw = Callable[[int, int], list[str]]  # width and height to lines
