"""`llama generate --export`: a model and its tokenizer in another layout, in a new directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_cli.commands._model import find_source, open_tokenizer
from llama_cli.errors import LlamaError, UsageError

if TYPE_CHECKING:
    from llama_cli.model.formats import Kind
    from llama_cli.stream.run import Run

EXPORTED = ("hf", "meta", "llama")


def export(run: Run, model: Path | None, kind: Kind, out: Path, *, shards: int | None) -> None:
    """Write a model anew, as bit for bit the same numbers.

    Raises:
        UsageError: it is to be cut into parts that it has not.
        NotReadyError: there is no such model.
        LlamaError: the directory is not empty, or the tokenizer is another's.
    """
    if shards and kind != "meta":
        raise UsageError("--shards is for --export meta", hint="llama generate --export meta OUT")
    from llama_cli.inference.engine import SPARE
    from llama_cli.model.formats import KINDS, write
    from llama_cli.stream.directory import new_directory
    from llama_cli.tokenizer.exported import exported

    assert set(KINDS) == set(EXPORTED)
    source = find_source(run, model)
    tokenizer = open_tokenizer(source)
    spare = source.config.vocab_size - tokenizer.vocab_size
    if not 0 <= spare <= (0 if kind == "meta" else SPARE):  # Meta's code knows the tokenizer's size
        raise LlamaError(
            f"{source.directory}: the model has {source.config.vocab_size:,} pieces, "
            f"its tokenizer {tokenizer.vocab_size:,}"
        )
    files = exported(tokenizer, context=source.config.context)
    with new_directory(out) as part:
        write(kind, source, part, shards=shards or 1)
        for name in files if kind == "hf" else (source.tokenizer.name,):
            (part / name).write_bytes(files[name])
    run.note(exported=str(out))
    run.say(f"wrote {out} in the layout of {kind}")
