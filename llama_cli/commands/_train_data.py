"""Where `llama train` has its sequences from: a directory of shards, or a stream."""

from __future__ import annotations

import json
import os
import stat
from contextlib import ExitStack
from pathlib import Path

from llama_cli.commands._train_options import Options
from llama_cli.errors import UsageError
from llama_cli.parallel.mesh import Mesh
from llama_cli.shards.grow import GROWING
from llama_cli.stream.progress import Progress
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.checkpoint import newest, step_of
from llama_cli.training.data import Data, Sequences, Stream
from llama_cli.training.keep import Stream as Kept
from llama_cli.training.keep import keeping
from llama_cli.training.run import SETTINGS
from llama_cli.training.spike import Skipped

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


def keep_stream(options: Options, run: Path, where: str, stack: ExitStack) -> None:
    """Begin to keep a stream in RUN/data, until the stack is left; the caller has stdin.

    Raises:
        LlamaError: it does not begin as the one that the run has kept.
    """
    if not is_stream(where) or os.environ.get(KEPT):
        return
    tokenizer = Tokenizer.load(options.tokenizer)
    stream = Kept(
        where,
        str(run / "data"),
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        used=_used(run),
    )
    stack.enter_context(keeping(stream)).begun()


def is_stream(where: str) -> bool:
    """Tell JSON lines from a directory of shards."""
    return not Path(where).is_dir()


def _used(run: Path) -> int:
    """Count the sequences up to which the newest checkpoint of a run has seen them."""
    checkpoint = newest(run)
    if checkpoint is None:
        return 0
    batch: int = json.loads((run / SETTINGS).read_text(encoding="utf-8"))["batch"]
    return Skipped.load(run).batch(step_of(checkpoint)) * batch


def open_data(run: Path, where: str, mesh: Mesh, progress: Progress) -> Data:
    """Open a directory of shards, or what is kept of a stream.

    Raises:
        LlamaError: it cannot be trained on.
    """
    kept = run / "data"
    if is_stream(where) or ((kept / GROWING).exists() and kept.samefile(where)):
        return Stream(kept, watch=mesh.first, say=progress.say)
    return Sequences(Path(where))
