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
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llama_cli.errors import LlamaError
from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import Entry, Files, damaged, lacking, read_manifest, write_manifest
from llama_cli.model.stored import Slice, files, fill, save_slices
from llama_cli.model.weights import MODEL, TOKENIZER, checkpoints, is_whole, save_config
from llama_cli.parallel.mesh import ONE, Mesh
from llama_cli.stream.sync import sync
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS

OPTIMIZER, TRAINER = "optimizer", "trainer.json"


# -- writing; saving.py says who does what, and when --


def name_of(step: int) -> str:
    """Name the checkpoint after `step` steps."""
    return f"checkpoint-{step:07d}"


def hidden(run: Path, step: int) -> Path:
    """Say where a checkpoint lies until it is whole."""
    return run / f".{name_of(step)}.part"


def open_part(run: Path, step: int) -> None:
    """Make the directory, anew."""
    part = hidden(run, step)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()


def write_slices(part: Path, slices: Sequence[Slice], mesh: Mesh) -> Files:
    """Write what this rank has of weights and moments, and say what was written."""
    if not mesh.owns:
        return {}
    groups = {
        MODEL: [each for each in slices if not each.name.startswith(MOMENTS)],
        OPTIMIZER: [each for each in slices if each.name.startswith(MOMENTS)],
    }
    return _entries(
        save_slices(group, part, stem, mesh.part, mesh.parts) for stem, group in groups.items()
    )


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


def publish(run: Path, step: int, entries: Files) -> Path:
    """Make a checkpoint of what all ranks have written."""
    part, final = hidden(run, step), run / name_of(step)
    sync(write_manifest(part, step, entries))
    sync(part)
    _remove(final)
    part.rename(final)
    sync(run)
    return final


def prune(run: Path, *, keep: int, spare: int | None = None) -> None:
    """Remove all but the `keep` newest, and that of step `spare`, to which a run may go back."""
    for old in list(checkpoints(run))[keep:]:
        if _number(old) != spare:
            _remove(old)


def drop_part(run: Path, step: int) -> None:
    """Remove what is not going to be a checkpoint: a full disk is not left fuller."""
    shutil.rmtree(hidden(run, step), ignore_errors=True)


# -- reading --


def newest(run: Path, *, every: int = 1, but: Collection[Path] = ()) -> Path | None:
    """Give the newest whole checkpoint of a run that training can continue from.

    With `every`, of those whose step is a multiple of it; none of `but`. That the bytes are what
    they were is not looked at: `first_damaged` does.
    """
    due = (found for found in checkpoints(run) if _number(found) % every == 0)
    return next((found for found in due if found not in but and _resumable(found)), None)


def first_damaged(checkpoint: Path, mesh: Mesh = ONE) -> str | None:
    """Name a file whose bytes are not those that were written, if there is one.

    Every rank calls it, and reads a share of the files.
    """
    held = read_manifest(checkpoint) or {}
    found = damaged(checkpoint, held, sorted(held)[mesh.rank :: mesh.size])
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
        raise LlamaError(f"{checkpoint}: {error}", hint=f"rm -r {checkpoint}") from None
    trainer.continue_after(step)
    return step


def clear_leftovers(run: Path) -> None:
    """Remove what runs that were killed left half-written; only under the run's lock."""
    for part in run.glob(".*.part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def _resumable(checkpoint: Path) -> bool:
    try:
        step_of(checkpoint)
        files(checkpoint, OPTIMIZER)
        held = read_manifest(checkpoint)
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        return False
    return is_whole(checkpoint) and not lacking(checkpoint, held or {})


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _remove(checkpoint: Path) -> None:
    """Hide first, so that no half-removed directory is ever taken for a checkpoint."""
    if checkpoint.exists():
        old = checkpoint.with_name(f".{checkpoint.name}.old.part")
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        shutil.rmtree(old)
