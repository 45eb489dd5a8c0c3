"""Weights to begin with: a checkpoint of this or of another run, of which only they are taken.

The optimizer, the schedule and the data begin anew. Each rank reads its own part of each weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.stored import fill, shapes
from llama_cli.model.transformer import Transformer
from llama_cli.model.weights import PARAMS, find_checkpoint, read_config, weight_files
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS

SAMPLE = 1 << 16  # bytes at both ends of the weights that tell them from others; ours


@dataclass(frozen=True, slots=True)
class Start:
    """A whole checkpoint to begin with."""

    checkpoint: Path
    config: ModelConfig
    fingerprint: str

    @classmethod
    def find(cls, path: Path) -> Start:
        """Open a checkpoint, or the newest of a run.

        Raises:
            NotReadyError: there is none, or its weights are not those of its params.json.
        """
        checkpoint = find_checkpoint(path)
        config = read_config(checkpoint)
        _check(checkpoint, config)
        return cls(checkpoint, config, _fingerprint(checkpoint))

    @property
    def size(self) -> str | None:
        """Name its size, if it is one that has a name."""
        shape = _shape(self.config)
        return next((name for name, config in SIZES.items() if _shape(config) == shape), None)

    def refuse_unless(self, *, vocab_size: int) -> None:
        """Check that it can be trained on ids of such a vocabulary.

        Raises:
            LlamaError: it cannot.
        """
        if self.config.vocab_size != vocab_size:
            raise LlamaError(
                f"{self.checkpoint} has {self.config.vocab_size:,} pieces, the data {vocab_size:,}",
                hint="llama tokenize --tokenizer CHECKPOINT/tokenizer.model",
            )

    def load(self, trainer: Trainer) -> None:
        """Put its weights into a trainer that has begun."""
        weights = (each for each in trainer.slices() if not each.name.startswith(MOMENTS))
        fill(weight_files(self.checkpoint), weights)


def nearest_size(config: ModelConfig) -> str:
    """Name the size whose recipe fits a model best: the next one by parameters.

    >>> nearest_size(SIZES["15m"].with_data(vocab_size=50, context=8))
    '15m'
    """
    count = config.layers * config.layer_parameters
    return min(
        SIZES, key=lambda name: abs(SIZES[name].layers * SIZES[name].layer_parameters - count)
    )


def _shape(config: ModelConfig) -> tuple[int, ...]:
    return config.dim, config.layers, config.heads, config.hidden


def _check(checkpoint: Path, config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    paths = weight_files(checkpoint)
    path = paths[0]
    try:
        held = shapes(paths)
    except SafetensorError as error:
        raise NotReadyError(f"{path}: {error}", hint=_HINT) from None
    for name, weight in model.named_parameters():
        if held.get(name) != tuple(weight.shape):
            found = held.get(name, "nothing")
            raise NotReadyError(
                f"{path}: {name} is {found}, not the {tuple(weight.shape)} of {PARAMS}", hint=_HINT
            )


def _fingerprint(checkpoint: Path) -> str:
    """Tell weights from others: every step changes all of them, so a sample is enough."""
    path = weight_files(checkpoint)[0]
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(SAMPLE)
        file.seek(max(0, size - SAMPLE))
        tail = file.read()
    return sha256(f"{size}".encode() + head + tail).hexdigest()


_HINT = "llama train --run DIR, then --from that DIR"
