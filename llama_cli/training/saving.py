"""Who writes a checkpoint, and when: each rank its own part, beside the training.

    begin    every rank copies its part of weights and moments, which takes as long as copying
             does, and a thread of its own writes the copy
    step     every rank learns with each step whether another still writes (`Trainer.step(flags)`),
             so that nobody waits
    settle   once nobody does: the first rank makes a checkpoint of all parts, or of none

A checkpoint that cannot be written is told, and training goes on; the one before it stays.
Memory: a copy of what the rank holds of weights and moments, 12 bytes a parameter, for as long as
it is written. With `beside=False` nothing is copied on a CPU, and training waits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from threading import Thread
from typing import Any

from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import Files
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
            told: hears how each ended.
            beside: write in a thread.
        """
        self.shelf, self._told, self._beside = shelf, told, beside
        self.last: Saved | None = None
        self._writing: _Writing | None = None

    @property
    def under_way(self) -> bool:
        """Say whether a checkpoint has begun that is not settled; on all ranks alike."""
        return self._writing is not None

    @property
    def busy(self) -> bool:
        """Say whether this rank still writes."""
        return self._writing is not None and self._writing.is_alive()

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
        text = json.dumps({"step": step, **about}, indent=2) + "\n"
        self._writing = _Writing(self.shelf, step, slices, text, spare, beside=self._beside)
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

    def settle(self) -> None:
        """Wait until every rank has written, and make a checkpoint of it."""
        writing = self._writing
        if writing is None:
            return
        writing.join()
        found = self.shelf.mesh.gathered((writing.entries, writing.why_not))
        self._writing = None
        why_not = next((why for _, why in found if why), None)
        if self.shelf.mesh.first:
            entries = {name: entry for held, _ in found for name, entry in held.items()}
            why_not = why_not or self._publish(writing, entries)
            if why_not:
                drop_part(self.shelf.run, writing.step)
        self._end(Saved(writing.step, self.shelf.mesh.told(why_not)))

    def _publish(self, writing: _Writing, entries: Files) -> str | None:
        try:
            publish(self.shelf.run, writing.step, entries)
        except OSError as error:
            return _reason(error)
        with suppress(OSError):  # an old one that stays is no reason to doubt the new one
            prune(self.shelf.run, keep=self.shelf.keep, spare=writing.spare)
        return None

    def _end(self, saved: Saved) -> None:
        self.last = saved
        self._told(saved)


class _Writing:
    """One rank's part of a checkpoint, being written."""

    def __init__(
        self,
        shelf: Shelf,
        step: int,
        slices: Sequence[Slice],
        about: str,
        spare: int | None,
        *,
        beside: bool,
    ) -> None:
        self.step, self.spare = step, spare
        self.entries: Files = {}
        self.why_not: str | None = None
        self._shelf, self._about = shelf, about
        self._thread: Thread | None = None
        try:
            self._slices = _owned(slices, copy=beside)
        except RuntimeError as error:  # no memory for the copy
            self.why_not = str(error).splitlines()[0]
            return
        if beside:  # a run that fails meanwhile does not wait for it
            self._thread = Thread(target=self._write, daemon=True)
            self._thread.start()
        else:
            self._write()

    def is_alive(self) -> bool:
        """Say whether it is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Wait until it is not."""
        if self._thread:
            self._thread.join()

    def _write(self) -> None:
        shelf, part = self._shelf, hidden(self._shelf.run, self.step)
        try:
            entries = dict(write_slices(part, self._slices, shelf.mesh))
            if shelf.mesh.first:
                entries |= write_about(part, shelf.config, self._about, shelf.tokenizer)
            self.entries = entries
        except Exception as error:  # a thread's would go unheard
            self.why_not = _reason(error)
        self._slices = []


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
