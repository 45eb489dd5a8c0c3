"""The options of `llama train` in one place, and what they would cost; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama_cli.model.config import SIZES, Activations, ModelConfig
from llama_cli.parallel.gpus import machines
from llama_cli.parallel.plan import CHINCHILLA_RATIO, plan
from llama_cli.parallel.propose import least_gpus
from llama_cli.parallel.words import describe
from llama_cli.training.settings import RECIPES, DType, default_batch

PAPER_GPU = "a100-80gb"  # section 2.4


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command, by name."""

    size: str
    data: str | None
    run: Path | None
    steps: int | None
    tokens: int | None
    batch: int | None
    micro_batch: int | None
    tensor: int
    replicas: int
    activations: Activations
    lr: float | None
    warmup: int | None
    warmup_from: float
    seed: int
    device: str
    dtype: DType | None
    attention: str
    deterministic: bool
    compile: bool | None
    validation: str | None
    validation_every: int | None
    checkpoint_every: int | None
    keep: int
    tokenizer: Path | None
    dry_run: bool
    quiet: bool
    verbose: bool
    asked: str = ""  # all of them and their origins, as TOML
    cross_document: bool = True
    start: Path | None = None  # --from
    instructions: str | None = None
    epochs: float | None = None
    reshard: bool = True
    async_checkpoints: bool = True


def dry_run(options: Options) -> str:
    """Say what the run would take; the data is read only if it is a directory given by name."""
    from llama_cli.carbon.estimate import estimate
    from llama_cli.carbon.words import describe as describe_carbon  # zstandard, not for --help

    config, tokens = planned(options)
    bf16 = options.dtype != "fp32"
    found = plan(config, size=options.size, tokens=tokens, bf16=bf16)
    batch = options.batch or default_batch(options.size, config.context)
    least = least_gpus(config, machines(PAPER_GPU, 1), batch=batch)
    words = describe(options.size, found, least=least, gpu=PAPER_GPU)
    return f"{words}\n\n{describe_carbon(estimate(found.gpu_hours))}"


def planned(options: Options) -> tuple[ModelConfig, int]:
    """Give the model, fitted to the data if they are there, and the tokens of the run."""
    config, sequences = SIZES[options.size], 0
    if options.start:
        from llama_cli.training.start import Start  # torch, only to look into a checkpoint

        config = Start.find(options.start).config
    if options.data and Path(options.data).is_dir():
        from llama_cli.shards.read import Shards  # numpy, only to read shards

        shards = Shards(options.data)
        sequences = len(shards)
        length = shards.tokens // max(sequences, 1) - 1
        config = config.with_data(vocab_size=shards.vocab_size, context=length)
    papers = None if options.start else RECIPES[options.size].tokens
    tokens = options.tokens or papers or sequences * config.context
    if options.steps:
        batch = options.batch or default_batch(options.size, config.context)
        tokens = options.steps * batch * config.context
    return config, tokens or CHINCHILLA_RATIO * config.parameters
