"""A model from its directory, whoever wrote it, and which checkpoint of a run is used.

Layouts are the matter of `formats`; what is re-exported from there is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from llama_cli.errors import NotReadyError
from llama_cli.model.formats import kind_of, open_source
from llama_cli.model.formats.ours import (
    HINT,
    MODEL,
    PARAMS,
    read_config,
    save_config,
    save_weights,
    weight_files,
)
from llama_cli.model.formats.source import TOKENIZER
from llama_cli.model.manifest import lacking, read_manifest
from llama_cli.model.parts import SUFFIX

if TYPE_CHECKING:
    import torch

    from llama_cli.model.transformer import Transformer

__all__ = [
    "MODEL",
    "PARAMS",
    "TOKENIZER",
    "checkpoints",
    "find_checkpoint",
    "is_whole",
    "load_model",
    "read_config",
    "save_config",
    "save_weights",
    "weight_files",
]

CHECKPOINT = re.compile(r"checkpoint-(\d{7,})")  # the number is the step


def load_model(
    directory: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> Transformer:
    """Build the model of a directory; dtype None keeps the one on disk.

    Raises:
        NotReadyError: files are missing, cut short, or of another shape than their config.
    """
    from llama_cli.model.formats.loading import load  # and with it PyTorch

    return load(open_source(directory), device=device, dtype=dtype, attention=attention)


def find_checkpoint(path: Path) -> Path:
    """Give `path` if it holds a model, or the newest whole checkpoint of the run it holds.

    Raises:
        NotReadyError: there is none, or all are damaged.
    """
    if path.is_dir() and kind_of(path):
        return path
    found = list(checkpoints(path))
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
    if found:
        raise NotReadyError(f"{found[0]} is damaged, and no older checkpoint is whole", hint=HINT)
    raise NotReadyError(f"no checkpoint in {path}", hint=HINT)


def checkpoints(run: Path) -> Iterator[Path]:
    """Yield the checkpoint directories of a run, newest first, whole or not."""
    found = [(int(match[1]), entry) for entry in _entries(run) if (match := _matches(entry))]
    for _, entry in sorted(found, reverse=True):
        yield entry


def is_whole(checkpoint: Path) -> bool:
    """Say whether the files of the weights are as long as they are to be, and params.json is read.

    How long, a manifest says; where there is none, as of weights from elsewhere, their headers.
    """
    try:
        read_config(checkpoint)
        paths, held = weight_files(checkpoint), read_manifest(checkpoint)
        if held is not None:
            names = {path.name for path in paths}
            return not lacking(checkpoint, {k: v for k, v in held.items() if k in names})
        for file in {*paths, *checkpoint.glob(f"*{SUFFIX}")}:
            with safe_open(file, framework="numpy"):
                pass
    except (NotReadyError, SafetensorError, OSError, ValueError):
        return False
    return True


def _entries(run: Path) -> list[Path]:
    return list(run.iterdir()) if run.is_dir() else []


def _matches(entry: Path) -> re.Match[str] | None:
    return CHECKPOINT.fullmatch(entry.name)
