"""Follow a run from outside, by its log: no torch, nothing asked of the run.

The log grows by lines; where a run goes on from a checkpoint it is replaced by a shorter one
(log.py), and then it is read anew. A run says at the end of its log how it ended; one that was
killed, or could not write, does not: it is silent, and nobody holds its lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson

from llama_cli.errors import NotReadyError
from llama_cli.training.lock import NAME as LOCK
from llama_cli.training.lock import is_free
from llama_cli.training.log import NAME, Line
from llama_cli.training.view import PATIENCE, View

SIGNS = (NAME, "settings.json", LOCK)  # a run has one of them


class Follower:
    """The view of a log that another process writes."""

    def __init__(self, run: Path, clock: Callable[[], float]) -> None:
        """Begin with what there is.

        Args:
            run: its directory.
            clock: seconds since the epoch, by which files are dated too.

        Raises:
            NotReadyError: `run` holds no run.
        """
        if not any((run / name).exists() for name in SIGNS):
            raise NotReadyError(f"no run in {run}", hint=f"llama train --run {run}")
        self.path, self.clock = run / NAME, clock
        self.view = View()
        self._place = (0, 0)  # device and inode of the file that is read
        self._read = 0  # bytes of it
        self._heard = clock()

    def poll(self) -> list[Line]:
        """Read what is new, and give its lines; all of them where the log was replaced."""
        try:
            with self.path.open("rb") as file:
                return self._poll(file.fileno())
        except FileNotFoundError:  # the run is about to begin
            return []

    @property
    def is_finished(self) -> bool:
        """Say whether the last step is done and saved."""
        view, last = self.view, f"checkpoint-{self.view.steps or 0:07d}"
        at_the_end = bool(view.steps) and view.step == view.steps
        return view.finished or (at_the_end and (self.path.parent / last).exists())

    @property
    def has_ended(self) -> bool:
        """Say whether the run has finished, has said that it stops, or has gone."""
        return bool(self.view.end) or self.is_finished or self.has_gone

    @property
    def has_gone(self) -> bool:
        """Say whether the run has long been silent and its process is no more."""
        silent = self.stalled or (not self.view.last and self.silence > PATIENCE)
        return silent and is_free(self.path.parent)

    @property
    def silence(self) -> float:
        """Count the seconds since the last line."""
        return max(0.0, self.clock() - self._heard)

    @property
    def stalled(self) -> bool:
        """Say whether the run has been silent for too long."""
        return self.view.is_stalled(self.silence)

    def _poll(self, file: int) -> list[Line]:
        found = os.fstat(file)
        place = (found.st_dev, found.st_ino)
        if place != self._place or found.st_size < self._read:
            self._place, self._read, self.view = place, 0, View()
        data = os.pread(file, found.st_size - self._read, self._read)
        whole = data.rpartition(b"\n")[0]  # the last line may be half written
        if not whole:
            return []
        self._read += len(whole) + 1
        self._heard = found.st_mtime
        lines = [line for text in whole.split(b"\n") if (line := _parsed(text)) is not None]
        for line in lines:
            self.view.feed(line)
        return lines


def _parsed(text: bytes) -> Line | None:
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None
