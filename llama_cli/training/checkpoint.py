"""Checkpoints that are whole or not there, and everything an exact continuation needs.

    RUN/checkpoint-0000123/
      params.json  model.safetensors  tokenizer.model     what eval and generate read
      optimizer.safetensors                               both moments of every weight
      trainer.json                                        the step, and the settings of the run

A checkpoint is written into a hidden directory, synced to the disk and renamed; the data
position follows from the step, and nothing random happens after the first weights. So a run
killed at any moment continues, from the newest whole checkpoint, to the same bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from llama_cli.errors import naming
from llama_cli.model.weights import (
    TOKENIZER,
    WEIGHTS,
    checkpoints,
    is_whole,
    save_config,
    save_tensors,
)
from llama_cli.parallel.slices import Slice, whole
from llama_cli.stream.sync import sync
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"


def save_checkpoint(
    run: Path,
    step: int,
    trainer: Trainer,
    *,
    settings: Mapping[str, Any],
    tokenizer: bytes | None,
    keep: int,
    spare: int | None = None,
) -> Path:
    """Write RUN/checkpoint-STEP after `step` steps, and drop all but the `keep` newest.

    The one of step `spare` stays too: a run may have to go back to it.

    All ranks call it; the first one gathers everything and writes, and the others wait for it.
    """
    held = dict(whole(trainer.slices(), trainer.mesh))
    final = run / f"checkpoint-{step:07d}"
    if trainer.mesh.first:
        about = json.dumps({"step": step, **settings}, indent=2)
        _put(final, trainer, held, tokenizer=tokenizer, about=about + "\n")
        for old in list(checkpoints(run))[keep:]:
            if _number(old) != spare:
                _remove(old)
    trainer.mesh.wait()
    return final


def _put(
    final: Path,
    trainer: Trainer,
    held: Mapping[str, Tensor],
    *,
    tokenizer: bytes | None,
    about: str,
) -> None:
    """Write a directory beside `final`, and give it that name when it is whole."""
    part = _hidden(final)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with naming(str(final)):
            _write(part, trainer, held, tokenizer=tokenizer, about=about)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a full disk is not left fuller
        raise
    _remove(final)
    part.rename(final)
    sync(final.parent)


def _write(
    part: Path,
    trainer: Trainer,
    held: Mapping[str, Tensor],
    *,
    tokenizer: bytes | None,
    about: str,
) -> None:
    states = {name: tensor for name, tensor in held.items() if name.startswith(MOMENTS)}
    save_config(trainer.model.config, part)
    save_tensors({name: x for name, x in held.items() if name not in states}, part / WEIGHTS)
    save_tensors(states, part / OPTIMIZER)
    if tokenizer is not None:
        (part / TOKENIZER).write_bytes(tokenizer)
    (part / TRAINER).write_text(about, encoding="utf-8")
    for file in part.iterdir():
        sync(file)
    sync(part)


def newest(run: Path, *, every: int = 1) -> Path | None:
    """Give the newest whole checkpoint of a run that training can continue from.

    With `every`, of those whose step is a multiple of it.
    """
    due = (found for found in checkpoints(run) if _number(found) % every == 0)
    return next((found for found in due if _resumable(found)), None)


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
    """Put a checkpoint's weights and moments into a trainer; give its step."""
    step = step_of(checkpoint)
    weights = safe_open(checkpoint / WEIGHTS, framework="pt")
    states = safe_open(checkpoint / OPTIMIZER, framework="pt")
    with weights, states:
        for held in trainer.slices():
            _read(states if held.name.startswith(MOMENTS) else weights, held)
    trainer.continue_after(step)
    return step


def _read(file: Any, held: Slice) -> None:
    """Read this rank's part of a tensor, and no more."""
    if held.tensor.numel():
        held.tensor.copy_(file.get_slice(held.name)[held.where])


def clear_leftovers(run: Path) -> None:
    """Remove what runs that were killed left half-written; only under the run's lock."""
    for part in run.glob(".*.part"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()


def _resumable(checkpoint: Path) -> bool:
    try:
        step_of(checkpoint)
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        return False
    return (checkpoint / OPTIMIZER).exists() and is_whole(checkpoint)


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _hidden(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.part")


def _remove(checkpoint: Path) -> None:
    """Hide first, so that no half-removed directory is ever taken for a checkpoint."""
    if checkpoint.exists():
        old = checkpoint.with_name(f".{checkpoint.name}.old.part")
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        shutil.rmtree(old)
