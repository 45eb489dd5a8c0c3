"""The loss curve of a run, as text for a terminal and as RUN/loss.png.

    python -m llama_cli.training.plot RUN TITLE      draws RUN/loss.png from the log

At a checkpoint the picture is drawn by a process of its own, at the lowest priority: matplotlib
takes a second, and training should not wait for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llama_cli.training.log import NAME, read_log

Curve = Sequence[tuple[int, float]]  # step and loss, in nats a token

PICTURE = "loss.png"
SECONDS = 60.0  # the least between two pictures of a run in progress; ours
WIDTH, HEIGHT = 71, 16  # characters of the drawing; ours: fits a terminal of 80 by 24


def curves(run: Path) -> tuple[Curve, Curve]:
    """Give the training and the validation losses of a run's log."""
    lines = list(read_log(run / NAME))
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    valid = [
        (line["step"], line["validation_loss"])
        for line in lines
        if line.get("validation_loss") is not None
    ]
    return train, valid


def draw(train: Curve, validation: Curve) -> str:
    """Draw the losses with characters: `.` training, averaged over a column, `o` validation.

    >>> print(draw([(1, 4.0), (2, 2.0)], [(2, 3.0)]).splitlines()[0])
       4.00 |.
    """
    points = [loss for _, loss in (*train, *validation)]
    last = max(step for step, _ in (*train, *validation))
    low, high = min(points), max(points)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, curve in ((".", _by_column(train, last)), ("o", _by_column(validation, last))):
        for column, loss in curve.items():
            grid[_row(loss, low, high)][column] = mark
    lines = [f"{'':7} |{''.join(row).rstrip()}" for row in grid]
    lines[0] = f"{high:7.2f}{lines[0][7:]}"
    lines[-1] = f"{low:7.2f}{lines[-1][7:]}"
    axis = f"{'':7} +{'-' * WIDTH}"
    return "\n".join([*lines, axis, f"{'':9}loss by step, 1 to {last}: . training  o validation"])


def _by_column(curve: Curve, last: int) -> dict[int, float]:
    held: dict[int, list[float]] = {}
    for step, loss in curve:
        held.setdefault((WIDTH - 1) * max(step - 1, 0) // max(last - 1, 1), []).append(loss)
    return {column: sum(losses) / len(losses) for column, losses in held.items()}


def _row(loss: float, low: float, high: float) -> int:
    return round((HEIGHT - 1) * (high - loss) / (high - low)) if high > low else 0


class Picture:
    """RUN/loss.png, drawn now and then while the run goes on, and once when it has ended."""

    def __init__(self, run: Path, title: str, clock: Callable[[], float]) -> None:
        self._run, self._title, self._clock = run, title, clock
        self._drawn = clock()
        self._process: subprocess.Popen[bytes] | None = None

    def refresh(self) -> None:
        """Draw it by another process, if the last one is a minute old."""
        if self._clock() - self._drawn < SECONDS or (
            self._process and self._process.poll() is None
        ):
            return
        self._drawn = self._clock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self._run), self._title],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        """End the other process, so that it draws nothing over what comes later."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def save_curves(run: Path, title: str) -> None:
    """Draw RUN/loss.png, if there is a step to draw; the old one is there until then."""
    train, validation = curves(run)
    if train:
        part = run / f".{PICTURE}.part"
        save_png(part, train, validation, title)
        part.rename(run / PICTURE)


def save_png(path: Path, train: Curve, validation: Curve, title: str) -> None:
    """Draw both curves with matplotlib, as in the paper's Figure 1."""
    from matplotlib.figure import Figure  # slow to import, and wanted only at the end

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*train, strict=True), linewidth=0.8, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), marker="o", label="validation")
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    os.nice(19)
    save_curves(Path(sys.argv[1]), sys.argv[2])
