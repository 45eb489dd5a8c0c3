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

from safetensors.torch import load_file

from llama_cli.errors import naming
from llama_cli.model.weights import (
    TOKENIZER,
    WEIGHTS,
    checkpoints,
    is_whole,
    save_tensors,
    save_weights,
)
from llama_cli.stream.sync import sync
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import moments, set_moments

OPTIMIZER, TRAINER = "optimizer.safetensors", "trainer.json"


def save_checkpoint(
    run: Path,
    step: int,
    trainer: Trainer,
    *,
    settings: Mapping[str, Any],
    tokenizer: bytes | None,
    keep: int,
) -> Path:
    """Write RUN/checkpoint-STEP after `step` steps, and drop all but the `keep` newest."""
    final = run / f"checkpoint-{step:07d}"
    part = _hidden(final)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    text = json.dumps({"step": step, **settings}, indent=2)
    try:
        with naming(str(final)):
            _write(part, trainer, tokenizer=tokenizer, about=text + "\n")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a full disk is not left fuller
        raise
    _remove(final)
    part.rename(final)
    sync(run)
    for old in list(checkpoints(run))[keep:]:
        _remove(old)
    return final


def _write(part: Path, trainer: Trainer, *, tokenizer: bytes | None, about: str) -> None:
    save_weights(trainer.model, part)
    save_tensors(moments(trainer.model, trainer.optimizer), part / OPTIMIZER)
    if tokenizer is not None:
        (part / TOKENIZER).write_bytes(tokenizer)
    (part / TRAINER).write_text(about, encoding="utf-8")
    for file in part.iterdir():
        sync(file)
    sync(part)


def newest(run: Path) -> Path | None:
    """Give the newest whole checkpoint of a run that training can continue from."""
    return next((found for found in checkpoints(run) if _resumable(found)), None)


def step_of(checkpoint: Path) -> int:
    """Give the step after which a checkpoint was written."""
    return int(json.loads((checkpoint / TRAINER).read_text(encoding="utf-8"))["step"])


def restore(checkpoint: Path, trainer: Trainer) -> int:
    """Put a checkpoint's weights and moments into a trainer; give its step."""
    step = step_of(checkpoint)
    trainer.model.load_state_dict(load_file(checkpoint / WEIGHTS))
    set_moments(trainer.model, trainer.optimizer, load_file(checkpoint / OPTIMIZER), step)
    return step


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


def _hidden(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.part")


def _remove(checkpoint: Path) -> None:
    """Hide first, so that no half-removed directory is ever taken for a checkpoint."""
    if checkpoint.exists():
        old = checkpoint.with_name(f".{checkpoint.name}.old.part")
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        shutil.rmtree(old)
