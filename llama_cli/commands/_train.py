"""What `llama train` puts together: data, tokenizer, settings, and who is told what."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from llama_cli.commands._model import pick_device
from llama_cli.commands._train_data import default_data, keep_stream, open_data
from llama_cli.commands._train_options import Options
from llama_cli.errors import LlamaError
from llama_cli.model.config import SIZES
from llama_cli.model.weights import find_checkpoint
from llama_cli.parallel.mesh import ONE, Mesh, joined
from llama_cli.stream.progress import Progress, tell
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.batch import Batch
from llama_cli.training.data import Data, apart, first_rows
from llama_cli.training.lock import locked
from llama_cli.training.log import Line
from llama_cli.training.plot import curves, draw
from llama_cli.training.run import VALIDATION_SEQUENCES, Job, Listener, Way, train
from llama_cli.training.settings import RECIPES, Settings, default_batch, default_warmup
from llama_cli.training.speed import native_dtype

EVERY = 1000  # steps between checkpoints of a long run; ours


def main(options: Options) -> None:
    """Train as the options say."""
    device = pick_device(options.device, "train")
    with joined(device, tensor=options.tensor, replicas=options.replicas) as mesh:
        _train(options, mesh)


def _train(options: Options, mesh: Mesh) -> None:
    """Train as one rank of the mesh; the first one speaks."""
    run = options.run or Path("runs") / options.size
    quiet = options.quiet or not mesh.first
    progress = Progress("train", quiet=quiet)
    where = mesh.told((options.data or default_data()) if mesh.first else "")
    with ExitStack() as stack:
        if mesh.first:
            stack.enter_context(locked(run))
        with mesh.first_alone():  # it may have to write the data that all read
            if mesh.first:
                keep_stream(options, run, where, stack)
            data = open_data(run, where, mesh, progress)
        job = make_job(options, run, data, progress, mesh)
        shown = Shown(progress, job.settings.steps)
        listener = Listener(time.perf_counter, time.process_time, progress.say, shown)
        trained = train(job, listener)
    if quiet:
        return
    if not trained:
        progress.say(f"{run} is finished: {find_checkpoint(run)}")
        return
    progress.say(f"wrote {find_checkpoint(run)} and {run / 'loss.png'}")
    tell(draw(*curves(run)))


class Shown:
    """The log's lines as words."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress, self.steps = progress, steps

    def __call__(self, line: Line) -> None:
        if "validation_loss" in line:
            self.progress.say(
                f"step {line['step']:,}: validation loss {line['validation_loss']:.3f}"
            )
        else:
            self.progress.tick(lambda: self._words(line))

    def _words(self, line: Line) -> str:
        left = (self.steps - line["step"]) * line["seconds"]
        return (
            f"step {line['step']:,} of {self.steps:,}, loss {line['loss']:.3f}, "
            f"{line['tokens_per_second']:,.0f} tokens/s, {left / 60:.0f} min left"
        )


def make_job(options: Options, run: Path, data: Data, progress: Progress, mesh: Mesh = ONE) -> Job:
    """Open the tokenizer, and settle every default."""
    tokenizer = Tokenizer.load(options.tokenizer) if options.tokenizer else None
    device = pick_device(options.device, "train")
    batch = options.batch or default_batch(options.size, data.length)
    steps = _steps(options, data, batch)
    tenth = min(EVERY, max(1, -(-steps // 10)))
    on_gpu = device == "cuda"
    if data.ended and steps * batch > len(data):
        passes = steps * batch / len(data)
        progress.say(f"{len(data):,} sequences are read {passes:.1f} times, in the same order")
    return Job(
        run,
        options.size,
        SIZES[options.size].with_data(vocab_size=data.vocab_size, context=data.length),
        Settings(
            steps=steps,
            batch=batch,
            lr=options.lr or RECIPES[options.size].lr,
            warmup=default_warmup(steps) if options.warmup is None else options.warmup,
            warmup_from=options.warmup_from,
            seed=options.seed,
            dtype=options.dtype or native_dtype(device),
            cross_document=options.cross_document,
        ),
        data,
        validation=_validation(options, data),
        tokenizer=_tokenizer(tokenizer, data, progress),
        way=Way(
            device=device,
            attention=options.attention,
            deterministic=options.deterministic,
            compile=on_gpu if options.compile is None else options.compile,
            micro_batch=options.micro_batch,
            activations=options.activations,
            checkpoint_every=options.checkpoint_every or tenth,
            validation_every=options.validation_every or tenth,
            keep=options.keep,
        ),
        mesh=mesh,
        asked=options.asked,
    )


def _steps(options: Options, data: Data, batch: int) -> int:
    """Give the length of the run; unless that is known, all of a stream must come first."""
    if options.steps:
        return options.steps
    tokens = options.tokens or RECIPES[options.size].tokens or data.whole() * data.length
    return max(1, tokens // (batch * data.length))


def _validation(options: Options, data: Data) -> Batch | None:
    if options.validation is None:
        return None
    batch = Batch(
        first_rows(
            options.validation,
            VALIDATION_SEQUENCES,
            length=data.length,
            vocab_size=data.vocab_size,
        )
    )
    return batch if options.cross_document else apart(batch)


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
