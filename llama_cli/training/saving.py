"""Who writes a checkpoint, and when: each rank its own part, beside the training.

    begin    every rank copies its part of weights and moments, which takes as long as copying
             does, and a thread of its own writes the copy
    then     the threads of the other ranks tell that of the first, through the store that all share
             (no collective), what they have written; it makes a checkpoint of all parts, or of none
    settle   every rank learns how it ended; before the next begins, and at the end

A checkpoint that cannot be written is told, and training goes on; the one before it stays.
Memory: a copy of what the rank holds of weights and moments, 12 bytes a parameter, for as long as
it is written. Without `asynchronous` nothing is copied on a CPU, and training waits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from secrets import token_hex
from threading import Event, Thread
from typing import Any

from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import Entry, Files
from llama_cli.model.stored import Slice
from llama_cli.parallel.mesh import Mesh
from llama_cli.training.checkpoint import (
    hidden,
    name_of,
    prune,
    publish,
    write_about,
    write_slices,
)
from llama_cli.training.loop import Trainer

SPARE = 1 << 20  # bytes of a checkpoint that are not tensors, and a little more; ours
PARTING = 5.0  # seconds that a run which fails waits for what it is writing; ours


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
        self,
        shelf: Shelf,
        heard: Callable[[Saved], None] = lambda saved: None,
        *,
        asynchronous: bool,
    ) -> None:
        """Prepare to write.

        Args:
            shelf: where.
            heard: hears, on the first rank, how each ended; as soon as `report` is called after it.
            asynchronous: write in a thread.
        """
        self.shelf, self._heard, self._asynchronous = shelf, heard, asynchronous
        self.last: Saved | None = None
        self._writing: _Writing | None = None

    def begin(
        self, step: int, trainer: Trainer, about: Mapping[str, Any], *, every: int | None = None
    ) -> None:
        """Begin the checkpoint after `step` steps, once that before it is settled.

        `about` goes into trainer.json. With `every`, the newest checkpoint of a multiple of it is
        kept too.
        """
        self.settle()
        slices = list(trainer.slices())
        token, why_not = self.shelf.mesh.told((token_hex(4), self._why_no_room(slices)))
        part = hidden(self.shelf.run, step, token)
        why_not = why_not or self.shelf.mesh.told(self._make(part))
        if why_not:
            self._end(Saved(step, why_not))
            return
        text = json.dumps({"step": step, **about}, indent=2) + "\n"
        self._writing = _Writing(self.shelf, step, part, text, every)
        self._writing.start(slices, asynchronous=self._asynchronous)
        if not self._asynchronous:
            self.settle()

    def _why_no_room(self, slices: Sequence[Slice]) -> str | None:
        needed = SPARE + sum(prod(each.shape) * each.tensor.element_size() for each in slices)
        try:
            free = shutil.disk_usage(self.shelf.run).free
        except OSError as error:
            return _reason(error)
        if free < needed:
            return f"it takes {_gigabytes(needed)}, and {_gigabytes(free)} are free"
        return None

    def _make(self, part: Path) -> str | None:
        """Make the directory, on the first rank; say why it cannot be."""
        if not self.shelf.mesh.first:
            return None
        try:
            part.mkdir()
        except OSError as error:
            return _reason(error)
        return None

    def report(self) -> None:
        """Tell, on the first rank, how the checkpoint ended that has ended since; never wait."""
        writing = self._writing
        if writing and self.shelf.mesh.first and writing.done and not writing.reported:
            writing.reported = True
            self._heard(Saved(writing.step, writing.why_not))

    def settle(self) -> None:
        """Wait until the checkpoint under way is there, or is not going to be."""
        writing = self._writing
        if writing is None:
            return
        writing.wrote.wait()
        self.shelf.mesh.wait()  # which a rank that has gone ends
        writing.join()
        self.report()
        self._writing = None
        self.last = Saved(writing.step, self.shelf.mesh.told(writing.why_not))

    def give_up(self) -> None:
        """Leave what is under way, of several ranks some of which may have gone; wait a little."""
        if self._writing:
            self._writing.given_up.set()
            self._writing.join(PARTING)

    def _end(self, saved: Saved) -> None:
        self.last = saved
        if self.shelf.mesh.first:
            self._heard(saved)


class _Writing:
    """One rank's part of a checkpoint, being written; the first rank's makes it one."""

    def __init__(self, shelf: Shelf, step: int, part: Path, about: str, every: int | None) -> None:
        self.step, self.reported = step, False
        self.why_not: str | None = "it was not finished"  # until it was
        self.wrote, self.given_up = Event(), Event()  # this rank's part; all of it
        self._shelf, self._part, self._about, self._every = shelf, part, about, every
        self._slices: Sequence[Slice] = ()
        self._thread: Thread | None = None

    @property
    def done(self) -> bool:
        """Say whether it has ended, well or not."""
        return self._thread is None or not self._thread.is_alive()

    def start(self, slices: Sequence[Slice], *, asynchronous: bool) -> None:
        """Take a copy and write it in a thread, or write at once."""
        no_copy: Exception | None = None
        try:
            self._slices = _owned(slices, copy=asynchronous)
        except RuntimeError as error:  # no memory for it
            no_copy = error
        if not asynchronous:
            self._write(no_copy)
            return
        # a run that fails meanwhile does not wait for it
        self._thread = Thread(target=self._write, args=(no_copy,), daemon=True)
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Wait until it has ended."""
        if self._thread:
            self._thread.join(seconds)

    def _write(self, failed: Exception | None) -> None:
        try:
            entries, why_not = self._mine(failed)
            self.wrote.set()
            self.why_not = self._meet(entries, why_not)
        except Exception as error:  # a thread's would go unheard
            self.why_not = _reason(error)
        finally:
            self.wrote.set()
            if self.why_not and self._shelf.mesh.first:  # a full disk is not left fuller
                shutil.rmtree(self._part, ignore_errors=True)

    def _mine(self, failed: Exception | None) -> tuple[Files, str | None]:
        """Write this rank's files; say what they are, or why they are not."""
        shelf = self._shelf
        try:
            if failed:
                raise failed
            entries = dict(write_slices(self._part, self._slices, shelf.mesh))
            if shelf.mesh.first:
                entries |= write_about(self._part, shelf.config, self._about, shelf.tokenizer)
        except Exception as error:
            return {}, _reason(error)
        finally:
            self._slices = ()
        return entries, None

    def _meet(self, entries: Files, why_not: str | None) -> str | None:
        """Tell the first rank; or, as that, make a checkpoint of what all ranks have written."""
        mesh, key = self._shelf.mesh, self._part.name
        if not mesh.first:
            told = {name: asdict(entry) for name, entry in entries.items()}
            mesh.leave_word(f"{key}/{mesh.rank}", [told, why_not])
            return why_not
        found = dict(entries)
        for rank in range(1, mesh.size):
            told, why = mesh.find_word(f"{key}/{rank}", self.given_up.is_set)
            found |= {name: Entry(**entry) for name, entry in told.items()}
            why_not = why_not or why
        if why_not:
            return why_not
        publish(self._part, self.step, found)
        with suppress(OSError):  # an old one that stays is no reason to doubt the new one
            prune(self._shelf.run, keep=self._shelf.keep, every=self._every)
        return None


def _owned(slices: Sequence[Slice], *, copy: bool) -> list[Slice]:
    """Bring what this rank is to write into the processor's memory, out of training's way."""
    return [
        replace(each, tensor=each.tensor.to("cpu", copy=copy).contiguous())
        for each in slices
        if each.owner
    ]


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return next(iter(text.splitlines()), type(error).__name__)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"
