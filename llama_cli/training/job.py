"""A run: what it trains, on what, how, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_cli.kernels.attention import Choice, choose
from llama_cli.model.config import Activations, ModelConfig
from llama_cli.parallel.mesh import ONE, Mesh
from llama_cli.training.batch import Batch
from llama_cli.training.data import Data
from llama_cli.training.log import Line
from llama_cli.training.settings import Settings
from llama_cli.training.spike import Choice as OnSpike
from llama_cli.training.start import Start


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is carried out: what changes its speed or its files, not its mathematics."""

    device: str = "cpu"
    attention: str | None = None
    deterministic: bool = True  # the gradients of the attention kernel; others' always are
    compile: bool = False
    micro_batch: int | None = None  # sequences of one data rank
    activations: Activations = "linear"
    reshard: bool = True  # give a layer's weights back between forward and backward
    checkpoint_every: int = 1000
    validation_every: int = 1000
    keep: int = 2
    async_checkpoints: bool = True  # they are written while training goes on
    on_spike: OnSpike | None = None  # None notes it, and stops at what is not a number


@dataclass(frozen=True, slots=True)
class Job:
    """What to train, on what, and how. The first rank holds the lock of `run`."""

    run: Path
    size: str
    config: ModelConfig
    settings: Settings
    data: Data
    validation: Batch | None = None
    tokenizer: bytes | None = None
    start: Start | None = None  # whose weights are the first
    way: Way = Way()
    mesh: Mesh = ONE
    asked: str = ""  # the options of the command and their origins, as TOML

    def decisive(self) -> dict[str, Any]:
        """Name everything on which the final weights depend."""
        return {
            "size": self.size,
            "model": self.config.to_params(),
            "data": self.data.fingerprint,
            "from": self.start.fingerprint if self.start else None,
            **self.settings.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what happens, and by which clocks, in seconds."""

    clock: Callable[[], float]
    cpu_clock: Callable[[], float]  # of the processor's time that this process had
    say: Callable[[str], None]
    on_line: Callable[[Line], None]
    watts: Callable[[], float | None] = lambda: None  # of what this process alone accounts for


def attention_of(job: Job) -> Choice:
    """Choose the attention of a run.

    Raises:
        NotReadyError: the one asked for is not there, or not for this dtype or model.
    """
    dtype = torch.bfloat16 if job.settings.dtype == "bf16" else torch.float32
    return choose(job.way.device, dtype, job.config.head_dim, job.way.attention)
