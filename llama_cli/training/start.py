"""Weights to begin with: a checkpoint of this or of another run, of which only they are taken.

The optimizer, the schedule and the data begin anew. Each rank reads its own part of each weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.formats import open_source
from llama_cli.model.formats.loading import pour
from llama_cli.model.formats.source import Source
from llama_cli.model.weights import MODEL, find_checkpoint
from llama_cli.training.checkpoint import first_damaged
from llama_cli.training.loop import Trainer
from llama_cli.training.optimizer import MOMENTS

SAMPLE = 1 << 16  # bytes at both ends of the weights that tell them from others; ours


@dataclass(frozen=True, slots=True)
class Start:
    """A whole checkpoint to begin with, in whatever layout."""

    source: Source
    fingerprint: str

    @classmethod
    def find(cls, path: Path) -> Start:
        """Open a checkpoint, or the newest of a run.

        Raises:
            NotReadyError: there is none, or its weights are not those of its config.
        """
        source = open_source(find_checkpoint(path))
        return cls(source, _fingerprint(source.files[0].path))

    @property
    def checkpoint(self) -> Path:
        """Say where it is."""
        return self.source.directory

    @property
    def config(self) -> ModelConfig:
        """Say what model it is."""
        return self.source.config

    @property
    def tokenizer(self) -> Path:
        """Say where its tokenizer is, if it has one."""
        return self.source.tokenizer

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
        """Put its weights into a trainer that has begun; every rank calls it.

        Raises:
            NotReadyError: they are not those that were written.
        """
        directory = self.source.directory
        if wrong := first_damaged(directory, trainer.mesh, only=MODEL):
            raise NotReadyError(
                f"{directory / wrong} is damaged", hint="llama train --from ANOTHER"
            )
        weights = (each for each in trainer.slices() if not each.name.startswith(MOMENTS))
        pour(self.source, weights)


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
    return config.dim, config.layers, config.heads, config.hidden, config.kv_heads, config.tied


def _fingerprint(path: Path) -> str:
    """Tell weights from others: every step changes all of them, so a sample is enough."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(SAMPLE)
        file.seek(max(0, size - SAMPLE))
        tail = file.read()
    return sha256(f"{size}".encode() + head + tail).hexdigest()
