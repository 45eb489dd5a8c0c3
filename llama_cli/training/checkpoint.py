"""Checkpoints that are whole or not there, and everything an exact continuation needs.

    RUN/checkpoint-0000123/
      params.json  tokenizer.model                       what eval and generate read,
      model.safetensors                                  and the weights
      optimizer.safetensors                              both moments of every weight
      trainer.json                                       the step, the settings of the run, and what
                                                         judges its spikes
      manifest.json                                      the length and hash of each of these

Of several ranks each writes its own part, `model-00002-of-00004.safetensors` (model/stored.py).
All of it lies in a hidden directory until it is whole; the manifest is written last, and a rename
makes it a checkpoint. The schedule and the position in the data follow from the step, and nothing
random happens after the first weights, which follow from the seed. So a run killed at any moment
continues, from the newest whole checkpoint, to the same bits; and on another number of ranks to
the same numbers, but for the order of additions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llama_cli.errors import LlamaError
from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import (
    MANIFEST,
    Entry,
    Files,
    damaged,
    lacking,
    read_manifest,
    write_manifest,
)
from llama_cli.model.parts import files
from llama_cli.model.stored import Slice, fill, save_slices
from llama_cli.model.weights import MODEL, PARAMS, TOKENIZER, checkpoints, is_whole, save_config
from llama_cli.parallel.mesh import ONE, Mesh
from llama_cli.stream.sync import sync
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS

OPTIMIZER, TRAINER = "optimizer", "trainer.json"


# -- writing; saving.py says who does what, and when --


def name_of(step: int) -> str:
    """Name the checkpoint after `step` steps."""
    return f"checkpoint-{step:07d}"


def hidden(run: Path, step: int, token: str) -> Path:
    """Say where a checkpoint lies until it is whole.

    The token tells it from that of an earlier start, of which a rank on another machine, cut off
    from the rest, may still be writing.
    """
    return run / f".{name_of(step)}.{token}.part"


def write_slices(part: Path, slices: Sequence[Slice], mesh: Mesh) -> Files:
    """Write what this rank has of weights and moments, and say what was written."""
    if not mesh.owns:
        return {}
    groups = {
        MODEL: [each for each in slices if not each.name.startswith(MOMENTS)],
        OPTIMIZER: [each for each in slices if each.name.startswith(MOMENTS)],
    }
    found: dict[str, Entry] = {}
    for stem, group in groups.items():
        found |= save_slices(group, part, stem, mesh.part, mesh.parts)
    for name in found:
        sync(part / name)
    return found


def write_about(part: Path, config: ModelConfig, about: str, tokenizer: bytes | None) -> Files:
    """Write what is not tensors, and say what was written."""
    paths = [save_config(config, part), part / TRAINER]
    paths[1].write_text(about, encoding="utf-8")
    if tokenizer is not None:
        paths.append(part / TOKENIZER)
        paths[-1].write_bytes(tokenizer)
    return _entries(paths)


def _entries(paths: Iterable[Path]) -> Files:
    found = {}
    for path in paths:
        sync(path)
        found[path.name] = Entry.of(path)
    return found


def publish(part: Path, step: int, entries: Files) -> Path:
    """Make a checkpoint of what all ranks have written."""
    final = part.with_name(name_of(step))
    sync(write_manifest(part, step, entries))
    sync(part)
    old = _hide(final)
    part.rename(final)
    sync(final.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)
    return final


def prune(run: Path, *, keep: int, every: int | None = None) -> None:
    """Remove all but the `keep` newest whole ones.

    With `every`, the newest of those whose step is a multiple of it stays too: a run may go back
    to it.
    """
    whole = [found for found in checkpoints(run) if is_whole(found)]
    regular = [found for found in whole if every and _number(found) % every == 0]
    for old in whole[keep:]:
        if old not in regular[:1]:
            _remove(old)


# -- reading --


def newest(run: Path, mesh: Mesh, say: Callable[[str], None], *, every: int = 1) -> Path | None:
    """Give the newest checkpoint that training can continue from; every rank calls it.

    Those after it that are damaged are told and set aside, hidden. With `every`, of those whose
    step is a multiple of it.

    Raises:
        LlamaError: there are checkpoints, and all are damaged.
        OSError: one cannot be read; which is no reason to take it for damaged.
    """
    due = [found for found in checkpoints(run) if _number(found) % every == 0] if mesh.first else []
    damaged: dict[Path, str] = {}
    for found in mesh.told(due):
        why_not = mesh.told(_why_not(found) if mesh.first else None)
        why_not = why_not or first_damaged(found, mesh)
        if not why_not:
            _set_aside(damaged, mesh, say)
            return found
        damaged[found] = why_not
    if damaged:
        found, why_not = next(iter(damaged.items()))
        raise LlamaError(
            f"{found / why_not} is damaged, and no older checkpoint is whole",
            hint="llama train --run ANOTHER",
        )
    return None


def _set_aside(damaged: Mapping[Path, str], mesh: Mesh, say: Callable[[str], None]) -> None:
    for found, why_not in damaged.items():
        aside = f".{found.name}.damaged"
        say(f"{found / why_not} is damaged: going back to the one before; set aside as {aside}")
        if mesh.first:
            found.replace(_free(found.with_name(aside)))


def glance(run: Path) -> Path | None:
    """Give the newest checkpoint that looks whole; its bytes are not read."""
    return next((found for found in checkpoints(run) if not _why_not(found)), None)


def _free(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def first_damaged(checkpoint: Path, mesh: Mesh = ONE, *, only: str = "") -> str | None:
    """Name a file whose bytes are not those that were written, if there is one.

    Every rank calls it, and reads a share of the files, or of those whose names begin with `only`.
    """
    held = read_manifest(checkpoint) or {}
    names = sorted(name for name in held if name.startswith(only))
    found = damaged(checkpoint, held, names[mesh.rank :: mesh.size])
    return next((name for names in mesh.gathered(found) for name in names), None)


def about(checkpoint: Path) -> dict[str, Any]:
    """Read trainer.json."""
    held: dict[str, Any] = json.loads((checkpoint / TRAINER).read_text(encoding="utf-8"))
    return held


def step_of(checkpoint: Path) -> int:
    """Give the step after which a checkpoint was written."""
    return int(about(checkpoint)["step"])


def forget(run: Path, *, after: int) -> None:
    """Remove the checkpoints of steps after `after`, to which training will not go back."""
    for checkpoint in list(checkpoints(run)):
        if _number(checkpoint) > after:
            _remove(checkpoint)


def restore(checkpoint: Path, trainer: Trainer) -> int:
    """Put a checkpoint's weights and moments into a trainer; give its step.

    Raises:
        LlamaError: something is missing in it.
    """
    step, near = step_of(checkpoint), trainer.mesh.part
    slices = list(trainer.slices())
    try:
        for stem in (MODEL, OPTIMIZER):
            mine = [each for each in slices if each.name.startswith(MOMENTS) == (stem == OPTIMIZER)]
            fill(files(checkpoint, stem, near=near), mine)
    except (SafetensorError, FileNotFoundError) as error:
        raise LlamaError(f"{checkpoint}: {error}", hint="llama train --run ANOTHER") from None
    trainer.continue_after(step)
    return step


def clear_leftovers(run: Path) -> None:
    """Remove what runs that were killed left half-written; only under the run's lock."""
    for part in run.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _why_not(checkpoint: Path) -> str | None:
    """Name a file for which training cannot continue from a checkpoint, by a quick look."""
    try:
        step_of(checkpoint)
    except (OSError, ValueError, TypeError, KeyError):
        return TRAINER
    try:
        held = read_manifest(checkpoint)
    except (OSError, ValueError):
        return MANIFEST
    try:
        tensors = files(checkpoint, MODEL) + files(checkpoint, OPTIMIZER)
    except FileNotFoundError as error:
        return Path(error.filename).name
    if held is None:  # an older version's
        return None if is_whole(checkpoint) else f"{MODEL}.safetensors"
    if not {PARAMS, TRAINER, *(path.name for path in tensors)} <= held.keys():
        return MANIFEST
    wrong = lacking(checkpoint, held)
    return wrong[0] if wrong else None if is_whole(checkpoint) else PARAMS


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _remove(checkpoint: Path) -> None:
    """Hide first, so that no half-removed directory is ever taken for a checkpoint."""
    if old := _hide(checkpoint):
        shutil.rmtree(old, ignore_errors=True)  # what stays is cleared at the next start


def _hide(checkpoint: Path) -> Path | None:
    """Take a checkpoint its name; None if it is not there."""
    if not checkpoint.exists():
        return None
    old = _free(checkpoint.with_name(f".{checkpoint.name}.old.part"))
    checkpoint.rename(old)
    return old
