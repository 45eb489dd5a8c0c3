"""Our own layout: params.json, model.safetensors and tokenizer.model in one directory.

Names and order of rows are those of Meta's release (interleaved rotary pairs), the format is
safetensors: no code runs when a checkpoint is read, and its size is checked by arithmetic. Weights
that several ranks have written are in as many files (model/stored.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llama_cli.errors import NotReadyError
from llama_cli.model.config import ModelConfig
from llama_cli.model.formats.source import TOKENIZER, Source
from llama_cli.model.parts import SUFFIX, Parts, files
from llama_cli.model.safetensors import write_safetensors

if TYPE_CHECKING:
    from llama_cli.model.transformer import Transformer

PARAMS, MODEL = "params.json", "model"
HINT = "llama train --run DIR, then give that DIR"


def save_weights(model: Transformer, directory: Path) -> None:
    """Write params.json and model.safetensors into an existing directory."""
    from llama_cli.model.stored import save_tensors

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
        raise NotReadyError(f"no model at {directory}", hint=HINT) from None
    except KeyError as error:
        raise NotReadyError(f"{path}: no {error.args[0]}", hint=HINT) from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise NotReadyError(f"{path}: not a model's parameters: {error}", hint=HINT) from None


def weight_files(directory: Path) -> list[Path]:
    """List the files with the weights of a checkpoint directory.

    Raises:
        NotReadyError: there is none, or one of several is missing.
    """
    try:
        return files(directory, MODEL)
    except FileNotFoundError as error:
        raise NotReadyError(f"no weights at {error.filename}", hint=HINT) from None


def open_source(directory: Path) -> Source:
    """Open a checkpoint directory.

    Raises:
        NotReadyError: files are missing, or params.json says something else.
    """
    config = read_config(directory)
    return Source(
        directory,
        config,
        about=directory / PARAMS,
        files=[Parts(path) for path in weight_files(directory)],
        tokenizer=directory / TOKENIZER,
        hint=HINT,
        is_ours=True,
    )


def write(source: Source, directory: Path) -> None:
    """Write a model into an empty directory, its tokenizer apart.

    Raises:
        OSError: it cannot be written, as when the disk is full.
    """
    from llama_cli.model.formats.loading import tensors

    found = (tensor for _, tensor in tensors(source))
    write_safetensors(directory / f"{MODEL}{SUFFIX}", source.entries, found)
    save_config(source.config, directory)
