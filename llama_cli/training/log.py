"""RUN/log.jsonl: what a run is, then one JSON object a step, and what happens between them.

    {"run": {"size", "parameters", "device", "processes", "threads", "steps", ...}}
    {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second",
     "tokens_per_second_per_gpu", "mfu", "memory", "watts", "data_wait", "seconds"}
    {"step", "validation_loss"}
    {"step", "checkpoint"}                    the name of its directory, once it is whole
    {"step", "checkpoint_failed"}             why there is none
    {"step", "spike", "batches", "why"}       spike.py: "noted", "skip", "rewind" or "stop"
    {"step", "end", "why"}                    "finished" or "stopped"; the last line

tokens            from the first step on, of batches that were trained on
tokens_per_second of the step alone; mfu is its model FLOPs a second over the peak (speed.py)
memory            bytes, the most so far of any process: allocated on its GPU, resident on a CPU
watts             of all devices, measured over the last second or more; null without a meter
data_wait         seconds that the step waited for its batch, on the rank that waited most
seconds           since the step before, with validation and checkpoints between them, so that
                  the sum is the time of the run

A run that continues, or goes back, cuts the log back to its checkpoint, so that each step is
there once; lines about spikes stay. Where the disk is full, lines wait for room, and training does
not wait for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

NAME = "log.jsonl"

Line = Mapping[str, Any]


class RunLog:
    """The log of a run, open for appending; each line is handed to the system at once."""

    def __init__(self, run: Path, *, about: Line, step: int, spikes: Iterable[Line] = ()) -> None:
        """Keep the lines up to `step`, or begin with one about the run.

        Those of `spikes` that are not there were decided on just before the run was killed.
        """
        self.path = run / NAME
        kept = [line for line in read_log(self.path) if _stays(line, step)] or [{"run": about}]
        kept += [line for line in spikes if line not in kept]
        part = run / f".{NAME}.part"
        with part.open("w", encoding="utf-8") as file:
            file.writelines(map(_text, kept))
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, line: Line) -> None:
        """Append a line, after those that have waited for room."""
        self._waiting += _text(line).encode()
        self._write_what_waits()

    def sync(self) -> None:
        """Put what was written on the disk, before a checkpoint that counts on it."""
        self._write_what_waits()
        with suppress(OSError):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the log; what has waited for room until now is lost."""
        self._write_what_waits()
        self._file.close()

    def _write_what_waits(self) -> None:
        with suppress(OSError):
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]


def read_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a log, if there is one, up to one cut short by a dying process."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                return
            if not isinstance(line, dict):
                return
            yield line


def _stays(line: Line, step: int) -> bool:
    """Say whether a line holds for a run that goes on after `step`."""
    return "spike" in line or ("end" not in line and line.get("step", 0) <= step)


def _text(line: Line) -> str:
    """Write a line; JSON has no word for what is not a number but null."""
    lost = {
        name for name, value in line.items() if isinstance(value, float) and not isfinite(value)
    }
    return json.dumps({**line, **dict.fromkeys(lost)}) + "\n"
