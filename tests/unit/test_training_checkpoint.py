"""Which checkpoint a run continues from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llama_cli.training.checkpoint import OPTIMIZER, TRAINER, glance
from tests.tiny import tiny_checkpoint


def resumable(directory: Path, trainer: str) -> Path:
    tiny_checkpoint(directory)
    shutil.copy(directory / "model.safetensors", directory / f"{OPTIMIZER}.safetensors")
    (directory / TRAINER).write_text(trainer)
    return directory


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"step": null}'])
def test_a_checkpoint_whose_step_cannot_be_read_is_passed_over(
    tmp_path: Path, damaged: str
) -> None:
    good = resumable(tmp_path / "checkpoint-0000001", '{"step": 1}')
    resumable(tmp_path / "checkpoint-0000002", damaged)
    assert glance(tmp_path) == good
