"""RUN/log.jsonl: what a run is, then one JSON object a step.

    {"run": {"size", "parameters", "device", "processes", "threads", ...}}
    {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "seconds"}
    {"step", "validation_loss"}

`tokens` counts from the first step. `seconds` counts from the step before, validation and
checkpoints between them included, so that the sum is the time of the run; `tokens_per_second`
and `mfu` are of the step alone. A run that continues cuts the log back to its checkpoint, so
that each step is there once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = "log.jsonl"

Line = Mapping[str, Any]


class RunLog:
    """The log of a run, open for appending; each line is handed to the system at once."""

    def __init__(self, run: Path, *, about: Line, step: int) -> None:
        """Keep the lines up to `step`, or begin with one about the run."""
        self.path = run / NAME
        kept = [line for line in read_log(self.path) if line.get("step", 0) <= step]
        part = run / f".{NAME}.part"
        with part.open("w", encoding="utf-8") as file:
            file.writelines(map(_text, kept or [{"run": about}]))
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.path)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: Line) -> None:
        """Append a line."""
        self._file.write(_text(line))

    def sync(self) -> None:
        """Put what was written on the disk, before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the log."""
        self._file.close()


def read_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a log, if there is one, up to one cut short by a dying process."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                return
            if not isinstance(line, dict):
                return
            yield line


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"
