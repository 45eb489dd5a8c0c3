"""Where `llama train` has its sequences from: shards, a stream, or conversations."""

from __future__ import annotations

import json
import os
import stat
from contextlib import ExitStack
from pathlib import Path

from llama_cli.commands._model import open_template
from llama_cli.commands._train_options import Options
from llama_cli.commands._train_start import refuse_tokenizer
from llama_cli.errors import UsageError
from llama_cli.parallel.mesh import Mesh
from llama_cli.shards.grow import GROWING
from llama_cli.stream.progress import Progress
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import TEMPLATE
from llama_cli.training.batch import Batch
from llama_cli.training.checkpoint import glance, step_of
from llama_cli.training.data import Data, Sequences, Stream, apart, first_rows
from llama_cli.training.instructions import Instructions, held_out, keep_instructions
from llama_cli.training.keep import Stream as Kept
from llama_cli.training.keep import keeping
from llama_cli.training.resume import SETTINGS
from llama_cli.training.run import VALIDATION_SEQUENCES
from llama_cli.training.spike import Skipped
from llama_cli.training.start import Start

PIPELINE = "llama fetch github . | llama filter | llama tokenize | llama mix -o mixed"
KEPT = "LLAMA_TRAIN_DATA_KEPT"  # set for ranks whose launcher keeps the stream


def default_data() -> str:
    """Give stdin if something is piped in, else ./mixed.

    Raises:
        UsageError: neither is there.
    """
    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind):
        return "-"
    if Path("mixed").is_dir():
        return "mixed"
    raise UsageError("no data: nothing is piped in, and there is no ./mixed", hint=PIPELINE)


def where_from(options: Options) -> str:
    """Say where the data are: conversations, sequences, or stdin if something is piped in.

    Raises:
        UsageError: nowhere.
    """
    return options.instructions or options.data or default_data()


def keep_data(
    options: Options, run: Path, where: str, stack: ExitStack, progress: Progress
) -> None:
    """Keep in RUN/data what is no directory of shards; the caller has stdin.

    A stream is kept until the stack is left; it has begun when this returns.

    Raises:
        LlamaError: it cannot be used, or is not what the run was begun with.
    """
    if os.environ.get(KEPT):
        return
    if options.instructions:
        _keep_instructions(options, run, where, progress)
    elif is_stream(where):
        tokenizer = Tokenizer.load(options.tokenizer)
        stream = Kept(
            where,
            str(run / "data"),
            vocab_size=tokenizer.vocab_size,
            tokenizer_sha256=tokenizer.sha256,
            used=_used(run),
        )
        stack.enter_context(keeping(stream)).begun()


def _keep_instructions(options: Options, run: Path, where: str, progress: Progress) -> None:
    assert options.start is not None
    start = Start.find(options.start)
    tokenizer = Tokenizer.load(options.tokenizer)
    start.refuse_unless(vocab_size=tokenizer.vocab_size)
    refuse_tokenizer(options, start, tokenizer.sha256)
    template = open_template(start.checkpoint)
    keep_instructions(
        where,
        run / "data",
        tokenizer,
        length=start.config.context,
        seed=options.seed,
        say=progress.say,
        template=template,
    )
    (run / TEMPLATE).write_text(template.to_json(), encoding="utf-8")


def is_stream(where: str) -> bool:
    """Tell JSON lines from a directory of shards."""
    return not Path(where).is_dir()


def _used(run: Path) -> int:
    """Count the sequences up to which the newest checkpoint of a run has seen them."""
    checkpoint = glance(run)
    if checkpoint is None:
        return 0
    batch: int = json.loads((run / SETTINGS).read_text(encoding="utf-8"))["batch"]
    return Skipped.load(run).batch(step_of(checkpoint)) * batch


def open_data(options: Options, run: Path, where: str, mesh: Mesh, progress: Progress) -> Data:
    """Open a directory of shards, or what is kept.

    Raises:
        LlamaError: it cannot be trained on.
    """
    kept = run / "data"
    if options.instructions:
        return Instructions(kept, seed=options.seed)
    if is_stream(where) or ((kept / GROWING).exists() and kept.samefile(where)):
        return Stream(kept, watch=mesh.first, say=progress.say)
    return Sequences(Path(where))


def open_validation(options: Options, data: Data) -> Batch | None:
    """Read what the loss is measured on, in the form that the data have.

    Raises:
        LlamaError: it is not in that form, or does not fit the data.
    """
    where = options.validation
    if where is None:
        return None
    if isinstance(data, Instructions):
        tokenizer = Tokenizer.load(options.tokenizer)
        return held_out(
            where,
            tokenizer,
            length=data.length,
            count=VALIDATION_SEQUENCES,
            template=data.template,
        )
    rows = first_rows(where, VALIDATION_SEQUENCES, length=data.length, vocab_size=data.vocab_size)
    return Batch(rows) if options.cross_document else apart(Batch(rows))
