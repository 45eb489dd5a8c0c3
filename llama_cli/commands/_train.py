"""What `llama train` puts together: data, tokenizer, settings, and who is told what."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from math import ceil
from pathlib import Path

from llama_cli.commands._model import pick_device
from llama_cli.commands._train_data import keep_data, open_data, open_validation, where_from
from llama_cli.commands._train_options import Options
from llama_cli.commands._train_seeing import Seeing, listening, tracking
from llama_cli.commands._train_start import refuse_tokenizer
from llama_cli.errors import LlamaError
from llama_cli.model.config import SIZES, ModelConfig
from llama_cli.model.weights import find_checkpoint
from llama_cli.parallel.mesh import ONE, Mesh, joined
from llama_cli.stream.progress import Progress, tell
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.data import Data
from llama_cli.training.instructions import Instructions
from llama_cli.training.job import Job, Way
from llama_cli.training.lock import locked
from llama_cli.training.plot import curves, draw
from llama_cli.training.run import train
from llama_cli.training.settings import (
    EPOCHS,
    RECIPES,
    SHARE_OF_LR,
    Settings,
    default_batch,
    default_warmup,
    tuning_batch,
    tuning_warmup,
)
from llama_cli.training.speed import native_dtype
from llama_cli.training.start import Start

EVERY = 1000  # steps between checkpoints of a long run; ours


def main(options: Options, seeing: Seeing) -> None:
    """Train as the options say."""
    device = pick_device(options.device, "train")
    with joined(device, tensor=options.tensor, replicas=options.replicas) as mesh:
        _train(options, seeing, mesh)


def _train(options: Options, seeing: Seeing, mesh: Mesh) -> None:
    """Train as one rank of the mesh; the first one speaks."""
    run = options.run or Path("runs") / options.size
    quiet = options.quiet or not mesh.first
    progress = Progress("train", quiet=quiet)
    where = mesh.told(where_from(options) if mesh.first else "")
    with ExitStack() as stack:
        if mesh.first:
            stack.enter_context(locked(run))
        tell_trackers = stack.enter_context(tracking(seeing, run, progress, mesh))
        with mesh.first_alone():  # it may have to write the data that all read
            if mesh.first:
                keep_data(options, run, where, stack, progress)
            data = open_data(options, run, where, mesh, progress)
        job = make_job(options, run, data, progress, mesh)
        job = replace(job, way=replace(job.way, on_spike=seeing.on_spike))
        trained = train(job, stack.enter_context(listening(run, progress, tell_trackers, mesh)))
    if quiet:
        return
    if not trained:
        progress.say(f"{run} is finished: {find_checkpoint(run)}")
        return
    progress.say(f"wrote {find_checkpoint(run)} and {run / 'loss.png'}")
    tell(draw(*curves(run)))


def make_job(options: Options, run: Path, data: Data, progress: Progress, mesh: Mesh = ONE) -> Job:
    """Open the tokenizer, and settle every default."""
    tokenizer = Tokenizer.load(options.tokenizer) if options.tokenizer else None
    start = Start.find(options.start) if options.start else None
    device = pick_device(options.device, "train")
    settings = _settings(options, data, device)
    steps = settings.steps
    tenth = min(EVERY, max(1, -(-steps // 10)))
    on_gpu = device == "cuda"
    if data.ended and steps * settings.batch > len(data) and not options.instructions:
        passes = steps * settings.batch / len(data)
        progress.say(f"{len(data):,} sequences are read {passes:.1f} times, in the same order")
    return Job(
        run,
        (start.size or "custom") if start else options.size,
        _config(options, start, data),
        settings,
        data,
        validation=open_validation(options, data),
        tokenizer=_tokenizer(tokenizer, data, progress),
        start=start,
        way=Way(
            device=device,
            attention=options.attention,
            deterministic=options.deterministic,
            compile=on_gpu if options.compile is None else options.compile,
            micro_batch=options.micro_batch,
            activations=options.activations,
            reshard=options.reshard,
            checkpoint_every=options.checkpoint_every or tenth,
            validation_every=options.validation_every or tenth,
            keep=options.keep,
            async_checkpoints=options.async_checkpoints,
        ),
        mesh=mesh,
        asked=options.asked,
    )


def _config(options: Options, start: Start | None, data: Data) -> ModelConfig:
    """Fit the model to the data.

    Raises:
        LlamaError: weights to begin with have another vocabulary.
    """
    if start:
        start.refuse_unless(vocab_size=data.vocab_size)
        if data.tokenizer_sha256:
            refuse_tokenizer(options, start, data.tokenizer_sha256)
    config = start.config if start else SIZES[options.size]
    return config.with_data(vocab_size=data.vocab_size, context=data.length)


def _settings(options: Options, data: Data, device: str) -> Settings:
    taught, recipe = isinstance(data, Instructions), RECIPES[options.size]
    batch = options.batch or _batch(options, data)
    steps = _steps(options, data, batch)
    warmup = tuning_warmup(steps) if taught else default_warmup(steps)
    return Settings(
        steps=steps,
        batch=batch,
        lr=options.lr or recipe.lr * (SHARE_OF_LR if taught else 1),
        warmup=warmup if options.warmup is None else options.warmup,
        warmup_from=options.warmup_from,
        seed=options.seed,
        dtype=options.dtype or native_dtype(device),
        cross_document=options.cross_document and not taught,
    )


def _batch(options: Options, data: Data) -> int:
    if isinstance(data, Instructions):
        return tuning_batch(len(data), data.conversations)
    return default_batch(options.size, data.length)


def _steps(options: Options, data: Data, batch: int) -> int:
    """Give the length of the run: an option's, Table 2's, or that of the data.

    A stream's length is known when all of it has come.
    """
    if options.steps:
        return options.steps
    tokens = options.tokens
    if not options.epochs and not options.start:
        tokens = tokens or RECIPES[options.size].tokens
    if tokens:
        return max(1, tokens // (batch * data.length))
    if isinstance(data, Instructions):  # every conversation is learnt
        return ceil((options.epochs or EPOCHS) * len(data) / batch)
    return max(1, int((options.epochs or 1) * data.whole() // batch))


def _tokenizer(given: Tokenizer | None, data: Data, progress: Progress) -> bytes | None:
    """Give the bytes of the data's tokenizer, to lie in each checkpoint."""
    wanted = data.tokenizer_sha256
    if given is None and (embedded := Tokenizer.load()).sha256 == wanted:
        return embedded.model
    if given is None:
        progress.say("checkpoints get no tokenizer: the data is made with one that is not known")
        return None
    if wanted not in (None, given.sha256):
        raise LlamaError(
            f"the data is made with another tokenizer ({str(wanted)[:8]}) than this "
            f"({given.sha256[:8]})",
            hint="llama train --tokenizer THE_ONE_IT_IS_MADE_WITH",
        )
    return given.model
