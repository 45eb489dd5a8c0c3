"""Who writes a checkpoint, and when: each rank its own part, beside the training.

    begin    every rank copies its part of weights and moments, which takes as long as copying
             does, and a thread of its own writes the copy
    then     the threads of the other ranks tell that of the first, through the store that all share
             (no collective), what they have written; it makes a checkpoint of all parts, or of none
    settle   every rank learns how it ended; before the next begins, and at the end

A checkpoint that cannot be written is told, and training goes on; the one before it stays.
Memory: a copy of what the rank holds of weights and moments, 12 bytes a parameter, for as long as
it is written. With `beside=False` nothing is copied on a CPU, and training waits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from threading import Thread
from typing import Any

from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import Entry, Files
from llama_cli.model.stored import Slice
from llama_cli.parallel.mesh import Mesh
from llama_cli.training.checkpoint import (
    drop_part,
    hidden,
    name_of,
    open_part,
    prune,
    publish,
    write_about,
    write_slices,
)
from llama_cli.training.loop import Trainer

SPARE = 1 << 20  # bytes of a checkpoint that are not tensors, and a little more; ours


@dataclass(frozen=True, slots=True)
class Saved:
    """How the writing of a checkpoint ended, the same on every rank."""

    step: int
    why_not: str | None = None

    @property
    def name(self) -> str:
        """Name its directory."""
        return name_of(self.step)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where checkpoints go, and what lies in each."""

    run: Path
    mesh: Mesh
    config: ModelConfig
    tokenizer: bytes | None
    keep: int = 2


class Saver:
    """Writes one checkpoint at a time; every rank makes the same calls."""

    def __init__(
        self, shelf: Shelf, told: Callable[[Saved], None] = lambda saved: None, *, beside: bool
    ) -> None:
        """Prepare to write.

        Args:
            shelf: where.
            told: hears how each ended, on the first rank as soon as `report` is called after it.
            beside: write in a thread.
        """
        self.shelf, self._told, self._beside = shelf, told, beside
        self.last: Saved | None = None
        self._writing: _Writing | None = None
        self._count = 0

    def begin(
        self, step: int, trainer: Trainer, about: Mapping[str, Any], *, spare: int | None = None
    ) -> None:
        """Begin the checkpoint after `step` steps, once that before it is settled.

        `about` goes into trainer.json. The checkpoint of step `spare` is kept too.
        """
        self.settle()
        slices = list(trainer.slices())
        if why_not := self.shelf.mesh.told(self._prepare(step, slices)):
            self._end(Saved(step, why_not))
            return
        self._count += 1
        text = json.dumps({"step": step, **about}, indent=2) + "\n"
        self._writing = _Writing(self.shelf, step, self._count, text, spare)
        self._writing.start(slices, beside=self._beside)
        if not self._beside:
            self.settle()

    def _prepare(self, step: int, slices: Sequence[Slice]) -> str | None:
        """Make room, on the first rank; say why there is none."""
        if not self.shelf.mesh.first:
            return None
        needed = SPARE + sum(prod(each.shape) * each.tensor.element_size() for each in slices)
        try:
            free = shutil.disk_usage(self.shelf.run).free
            if free < needed:
                return f"it takes {_gigabytes(needed)}, and {_gigabytes(free)} are free"
            open_part(self.shelf.run, step)
        except OSError as error:
            return _reason(error)
        return None

    def report(self) -> None:
        """Tell, on the first rank, how the checkpoint ended that has ended since; never wait."""
        writing = self._writing
        if writing and self.shelf.mesh.first and writing.done and not writing.reported:
            writing.reported = True
            self._told(Saved(writing.step, writing.why_not))

    def settle(self) -> None:
        """Wait until the checkpoint under way is there, or is not going to be."""
        writing = self._writing
        if writing is None:
            return
        writing.join()
        self.report()
        self._writing = None
        self.last = Saved(writing.step, self.shelf.mesh.told(writing.why_not))

    def _end(self, saved: Saved) -> None:
        self.last = saved
        self._told(saved)


class _Writing:
    """One rank's part of a checkpoint, being written; the first rank's makes it one."""

    def __init__(self, shelf: Shelf, step: int, number: int, about: str, spare: int | None) -> None:
        self.step, self.reported = step, False
        self.why_not: str | None = None
        self._shelf, self._number, self._about, self._spare = shelf, number, about, spare
        self._slices: Sequence[Slice] = ()
        self._thread: Thread | None = None

    @property
    def done(self) -> bool:
        """Say whether it has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def start(self, slices: Sequence[Slice], *, beside: bool) -> None:
        """Take a copy, and write it; without `beside`, write at once."""
        try:
            self._slices = _owned(slices, copy=beside)
        except RuntimeError as error:  # no memory for the copy
            self.why_not = str(error).splitlines()[0]
        if not beside:
            self._write()
            return
        # a run that fails meanwhile does not wait for it
        self._thread = Thread(target=self._write, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread:
            self._thread.join()

    def _write(self) -> None:
        mesh = self._shelf.mesh
        mine = self._mine()
        self._slices = ()
        if not mesh.first:
            told = {name: asdict(entry) for name, entry in mine.items()}
            mesh.leave_word(f"saved/{self._number}/{mesh.rank}", [told, self.why_not])
            return
        entries, why_not = dict(mine), self.why_not
        for rank in range(1, mesh.size):
            told, why = mesh.find_word(f"saved/{self._number}/{rank}")
            entries |= {name: Entry(**entry) for name, entry in told.items()}
            why_not = why_not or why
        self.why_not = self._finish(entries, why_not)

    def _mine(self) -> Files:
        """Write this rank's files."""
        shelf, part = self._shelf, hidden(self._shelf.run, self.step)
        if self.why_not:
            return {}
        try:
            entries = dict(write_slices(part, self._slices, shelf.mesh))
            if shelf.mesh.first:
                entries |= write_about(part, shelf.config, self._about, shelf.tokenizer)
        except Exception as error:  # a thread's would go unheard
            self.why_not = _reason(error)
            return {}
        return entries

    def _finish(self, entries: Files, why_not: str | None) -> str | None:
        """Make a checkpoint of what all ranks have written, or nothing; say why not."""
        run = self._shelf.run
        try:
            if why_not is None:
                publish(run, self.step, entries)
        except OSError as error:
            why_not = _reason(error)
        if why_not:
            drop_part(run, self.step)
            return why_not
        with suppress(OSError):  # an old one that stays is no reason to doubt the new one
            prune(run, keep=self._shelf.keep, spare=self._spare)
        return None


def _owned(slices: Sequence[Slice], *, copy: bool) -> list[Slice]:
    """Bring what this rank is to write into the processor's memory, out of training's way."""
    return [
        replace(each, tensor=each.tensor.to("cpu", copy=copy).contiguous())
        for each in slices
        if each.owner
    ]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"
