"""What the log of a run says so far: plain figures, from its lines, in their order.

Both the process that trains and one that only watches hold a `View`; panel.py draws it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

POINTS = 512  # of the curve that are held, whatever the length of the run; ours
STEPS = 64  # the last ones, whose mean is the pace of the run; ours
STALLED = 10.0  # usual steps without a line, and the run is said to be stalled; ours
PATIENCE = 30.0  # seconds, the least that this is: a checkpoint or a validation takes its time


class Curve:
    """A curve of any length in a few points, each the mean of as many steps."""

    def __init__(self) -> None:
        self._bins: list[tuple[int, float, int]] = []  # first step, sum, count
        self._each = 1

    def add(self, step: int, value: float) -> None:
        """Go on to a later step, or back to an earlier one."""
        while self._bins and self._bins[-1][0] >= step:
            self._bins.pop()
        if self._bins and self._bins[-1][2] < self._each:
            first, total, count = self._bins[-1]
            self._bins[-1] = (first, total + value, count + 1)
        else:
            self._bins.append((step, value, 1))
        if len(self._bins) > POINTS:
            self._halve()

    def points(self) -> list[tuple[int, float]]:
        """Give steps and means."""
        return [(first, total / count) for first, total, count in self._bins]

    def _halve(self) -> None:
        left, right = self._bins[::2], self._bins[1::2]
        pairs = zip(left, right, strict=False)
        merged = [(one[0], one[1] + two[1], one[2] + two[2]) for one, two in pairs]
        self._bins = merged + left[len(right) :]
        self._each *= 2


@dataclass(slots=True)
class View:
    """The newest figures of a run; `feed` takes the lines of its log."""

    about: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)  # line of a step
    validation: Mapping[str, Any] = field(default_factory=dict)
    spike: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: int | None = None  # step of the newest
    skipped: int = 0  # batches
    curve: Curve = field(default_factory=Curve)
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS))

    @property
    def step(self) -> int:
        """Count the steps done."""
        return int(self.last.get("step", 0))

    @property
    def steps(self) -> int | None:
        """Count the steps of the whole run."""
        return self.about.get("steps")

    @property
    def finished(self) -> bool:
        """Say whether the last step is done and the run has ended."""
        return self.end.get("end") == "finished"

    @property
    def seconds_left(self) -> float | None:
        """Estimate the time to the end, at the pace of the last steps."""
        if not self._seconds or self.steps is None:
            return None
        return (self.steps - self.step) * fmean(self._seconds)

    def is_stalled(self, silence: float) -> bool:
        """Say whether nothing was heard for much longer than a step usually takes."""
        if not self._seconds or self.end:
            return False
        return silence > max(STALLED * median(self._seconds), PATIENCE)

    def feed(self, line: Mapping[str, Any]) -> None:
        """Take the next line of the log; what is no line of one is passed over."""
        if "run" in line:
            self.about = line["run"]
        elif "spike" in line:
            self.spike = line
            self.skipped += _batches(line)
        elif "end" in line:
            self.end = line
        elif "checkpoint" in line:
            self.checkpoint = line["step"]
        elif "validation_loss" in line:
            self.validation = line
        elif "loss" in line:
            self._step(line)

    def _step(self, line: Mapping[str, Any]) -> None:
        if self.validation.get("step", 0) > line["step"]:  # of steps that are done again
            self.validation = {}
        self.last, self.end = line, {}
        self.curve.add(line["step"], line["loss"])
        self._seconds.append(line["seconds"])


def _batches(line: Mapping[str, Any]) -> int:
    first, last = line.get("batches") or (1, 0)
    return int(last - first + 1)
