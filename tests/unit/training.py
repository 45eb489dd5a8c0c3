"""Small things to train: a model of 26 thousand weights on made-up sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from llama_cli.model.config import ModelConfig
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.parallel.mesh import ONE
from llama_cli.shards.write import ShardWriter
from llama_cli.training.batch import Batch
from llama_cli.training.data import Sequences
from llama_cli.training.job import Job, Listener, Way
from llama_cli.training.loop import Trainer
from llama_cli.training.saving import Saver, Shelf
from llama_cli.training.settings import Settings

VOCAB, LENGTH = 50, 8
CONFIG = ModelConfig(dim=32, layers=2, heads=2, hidden=64, vocab_size=VOCAB, context=LENGTH)
SETTINGS = Settings(steps=6, batch=4, lr=1e-2, warmup=2)


def write_sequences(
    directory: Path, count: int = 20, *, length: int = LENGTH, vocab: int = VOCAB, **header: Any
) -> Path:
    """Write sequences that count upwards from different starts, so that they can be learnt."""
    with ShardWriter(directory, **{"kind": "sequences", "vocab_size": vocab, **header}) as shards:
        for start in range(count):
            shards.add((start * 7 + np.arange(length + 1)) % vocab, "files", str(start))
    return directory


def trainer(settings: Settings = SETTINGS, **options: Any) -> Trainer:
    model = Transformer(CONFIG)
    init_weights(model, settings.seed)
    return Trainer(model, settings, **options)


def weights(found: Trainer) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in found.model.named_parameters()}


def save(run: Path, step: int, found: Trainer, *, keep: int = 9, **about: Any) -> Path:
    """Write a checkpoint now."""
    saver = Saver(Shelf(run, ONE, CONFIG, None, keep), asynchronous=False)
    saver.begin(step, found, about)
    assert saver.last is not None
    assert saver.last.why_not is None
    return run / saver.last.name


class Ear(list[Any]):
    """A listener that keeps what it hears; its clock moves a second a look."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.now = 0.0

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def listener(self) -> Listener:
        return Listener(self.clock, self.clock, self.append, self.lines.append)


def job(tmp_path: Path, name: str = "run", **changes: Any) -> Job:
    data = tmp_path / "data"
    run = tmp_path / name
    run.mkdir(exist_ok=True)
    held = Sequences(data if data.exists() else write_sequences(data))
    options: dict[str, Any] = {
        "settings": SETTINGS,
        "way": Way(checkpoint_every=2, validation_every=3),
        "validation": Batch(held.rows(range(2))),
        **changes,
    }
    return Job(run, "tiny", CONFIG, data=held, **options)
