"""Weights on disk: params.json, model.safetensors and tokenizer.model in one directory.

Names and layout are those of Meta's release (interleaved rotary pairs), the format is
safetensors: no code runs when a checkpoint is read, and its size is checked by arithmetic. Weights
that several ranks have written are in as many files (stored.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from llama_cli.errors import NotReadyError
from llama_cli.model.config import ModelConfig
from llama_cli.model.manifest import lacking, read_manifest
from llama_cli.model.stored import SUFFIX, files, load_whole, save_tensors
from llama_cli.model.transformer import Transformer

PARAMS, MODEL, TOKENIZER = "params.json", "model", "tokenizer.model"
CHECKPOINT = re.compile(r"checkpoint-(\d{7,})")  # the number is the step


def save_weights(model: Transformer, directory: Path) -> None:
    """Write params.json and model.safetensors into an existing directory."""
    state = {name: weight.detach().cpu().contiguous() for name, weight in model.named_parameters()}
    save_tensors(state, directory / f"{MODEL}{SUFFIX}")
    save_config(model.config, directory)


def save_config(config: ModelConfig, directory: Path) -> Path:
    """Write params.json."""
    path = directory / PARAMS
    path.write_text(json.dumps(config.to_params(), indent=2) + "\n", encoding="utf-8")
    return path


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
    paths = weight_files(directory)
    try:
        one = len(paths) == 1
        state = load_file(paths[0], device=device) if one else load_whole(paths)
        model.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError) as error:
        message = f"{paths[0]}: {str(error).splitlines()[-1].strip()}"
        raise NotReadyError(message, hint=_HINT) from None
    return model.to(device, dtype)


def weight_files(directory: Path) -> list[Path]:
    """List the files with the weights of a checkpoint directory.

    Raises:
        NotReadyError: there is none, or one of several is missing.
    """
    try:
        return files(directory, MODEL)
    except FileNotFoundError as error:
        raise NotReadyError(f"no weights at {error.filename}", hint=_HINT) from None


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
            with safe_open(file, framework="pt"):
                pass
    except (NotReadyError, SafetensorError, OSError, ValueError):
        return False
    return True


def _entries(run: Path) -> list[Path]:
    return list(run.iterdir()) if run.is_dir() else []


def _matches(entry: Path) -> re.Match[str] | None:
    return CHECKPOINT.fullmatch(entry.name)


_HINT = "llama train --run DIR, then give that DIR"
