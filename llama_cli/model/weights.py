"""Weights on disk: params.json, model.safetensors and tokenizer.model in one directory.

Names and layout are those of Meta's release (interleaved rotary pairs), the format is
safetensors: no code runs when a checkpoint is read, and its size is checked by arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_cli.errors import NotReadyError
from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer

PARAMS, WEIGHTS, TOKENIZER = "params.json", "model.safetensors", "tokenizer.model"
CHECKPOINT = re.compile(r"checkpoint-(\d{7,})")  # the number is the step


def save_weights(model: Transformer, directory: Path) -> None:
    """Write params.json and model.safetensors into an existing directory."""
    state = {name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters()}
    save_tensors(state, directory / WEIGHTS)
    save_config(model.config, directory)


def save_config(config: ModelConfig, directory: Path) -> None:
    """Write params.json."""
    text = json.dumps(config.to_params(), indent=2)
    (directory / PARAMS).write_text(text + "\n", encoding="utf-8")


def save_tensors(state: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file that others may read; the library makes it the owner's alone.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    try:
        save_file(state, path)
    except SafetensorError as error:
        reason = str(error).rpartition("error: ")[2].partition(" (os error")[0]
        raise OSError(None, reason, str(path)) from None
    path.chmod(0o644)


def read_config(directory: Path) -> ModelConfig:
    """Read params.json.

    Raises:
        NotReadyError: it is missing or says something else.
    """
    path = directory / PARAMS
    try:
        return ModelConfig.from_params(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise NotReadyError(f"no model at {directory}", hint=_HINT) from None
    except (ValueError, KeyError, TypeError) as error:
        raise NotReadyError(f"{path}: not a model's parameters: {error}", hint=_HINT) from None


def load_model(
    directory: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
) -> Transformer:
    """Build the model of a checkpoint directory; dtype None keeps the one on disk.

    Raises:
        NotReadyError: files are missing, cut short, or of another shape than params.json.
    """
    config = read_config(directory)
    with torch.device("meta"):
        model = Transformer(config, attention=attention)
    try:
        state = load_file(directory / WEIGHTS, device=device)
        model.load_state_dict(state, assign=True)
    except FileNotFoundError:
        raise NotReadyError(f"no weights at {directory / WEIGHTS}", hint=_HINT) from None
    except (SafetensorError, RuntimeError) as error:
        message = f"{directory / WEIGHTS}: {str(error).splitlines()[-1].strip()}"
        raise NotReadyError(message, hint=_HINT) from None
    return model.to(dtype) if dtype else model


def find_checkpoint(path: Path) -> Path:
    """Give `path` if it is a checkpoint, or the newest whole one of the run it holds.

    Raises:
        NotReadyError: there is none, or all are damaged.
    """
    if (path / PARAMS).exists():
        return path
    found = list(checkpoints(path))
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
    if found:
        raise NotReadyError(f"{found[0]} is damaged, and no older checkpoint is whole", hint=_HINT)
    raise NotReadyError(f"no checkpoint in {path}", hint=_HINT)


def checkpoints(run: Path) -> Iterator[Path]:
    """Yield the checkpoint directories of a run, newest first, whole or not."""
    found = [(int(match[1]), entry) for entry in _entries(run) if (match := _matches(entry))]
    for _, entry in sorted(found, reverse=True):
        yield entry


def is_whole(checkpoint: Path) -> bool:
    """Say whether every safetensors file is as long as its header says, and params.json is read."""
    try:
        read_config(checkpoint)
        for file in {checkpoint / WEIGHTS, *checkpoint.glob("*.safetensors")}:
            with safe_open(file, framework="pt"):
                pass
    except (NotReadyError, SafetensorError, OSError):
        return False
    return True


def _entries(run: Path) -> list[Path]:
    return list(run.iterdir()) if run.is_dir() else []


def _matches(entry: Path) -> re.Match[str] | None:
    return CHECKPOINT.fullmatch(entry.name)


_HINT = "llama train --run DIR, then give that DIR"
