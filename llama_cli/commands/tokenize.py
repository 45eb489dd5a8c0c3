"""`llama tokenize`: documents to token ids, or to the vocabulary that defines them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._options import Command, stream_options
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.records import Tokens
    from llama_cli.stream.run import Run
    from llama_cli.tokenizer.bpe import Tokenizer


@click.command("tokenize", cls=Command)
@stream_options(drops=False)
@click.option(
    "--tokenizer",
    "model",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A sentencepiece .model.  [default: the one that comes with llama]",
)
@click.option("--fit", is_flag=True, help="Learn a tokenizer from the documents; -o FILE.model.")
@click.option(
    "--vocab",
    type=click.IntRange(260),
    default=32_000,
    show_default=True,
    help="--fit: pieces to learn.",
)
@click.option(
    "--fit-bytes",
    type=click.IntRange(1),
    default=200_000_000,
    show_default=True,
    help="--fit: learn from a sample of this size; takes up to 16 times as much memory.",
)
def command(run: Run, model: Path | None, fit: bool, vocab: int, fit_bytes: int) -> None:
    """Turn documents into token ids, or learn a tokenizer.

    Reads JSON lines (plain or compressed) from FILEs or stdin. Writes a line a document to
    stdout or to -o FILE.jsonl[.zst], or binary shards to -o DIRECTORY, any name without
    such a suffix. A document becomes begin mark, text, end mark. Nothing is kept from a run
    that is stopped: the same command starts again.

    \b
      llama fetch github src/ | llama filter | llama tokenize | llama mix -o mixed
      llama tokenize clean.jsonl.zst -j 0 -o tokens
      llama tokenize --fit clean.jsonl.zst -o my.model --vocab 8000
    """
    from llama_cli.records import Document
    from llama_cli.shards.write import check_target, means_shards
    from llama_cli.tokenizer.bpe import Tokenizer
    from llama_cli.tokenizer.documents import Encode

    if fit:
        _fit(run, vocab, fit_bytes)
        return
    tokenizer = Tokenizer.load(model)
    if means_shards(run.output):
        check_target(run.output)  # now, not after hours
    records = _counted(run, run.map(Document.from_json, Encode(tokenizer)))
    if means_shards(run.output):
        _write_shards(run, records, run.output, tokenizer)
    else:
        run.write(records)


def _counted(run: Run, encoded: Iterable[tuple[Tokens, int]]) -> Iterator[Tokens]:
    tokens = size = 0
    for record, bytes_read in encoded:
        tokens += len(record.tokens)
        size += bytes_read
        yield record
    ratio = size / tokens if tokens else 0.0
    run.say(f"{tokens:,} tokens of {size:,} bytes of text, {ratio:.2f} bytes a token")
    run.note(tokens=tokens, bytes=size, bytes_per_token=round(ratio, 4))


def _write_shards(
    run: Run, records: Iterable[Tokens], directory: Path, tokenizer: Tokenizer
) -> None:
    from llama_cli.shards.write import ShardWriter

    with ShardWriter(
        directory,
        kind="documents",
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
    ) as shards:
        for record in run.count(records):
            shards.add(record.tokens, record.source, record.id)


def _fit(run: Run, vocab: int, fit_bytes: int) -> None:
    from llama_cli.records import Document
    from llama_cli.stream.writer import open_output
    from llama_cli.tokenizer.bpe import Tokenizer
    from llama_cli.tokenizer.fit import fit, sample

    if run.output is None:
        raise UsageError("--fit makes a file", hint="llama tokenize --fit -o tokenizer.model")
    texts = (document.text for document in run.read(Document.from_json))
    lines, share = sample(texts, fit_bytes)
    if share < 1:
        run.say(f"learns from a {share:.4g} share of the lines (--fit-bytes {fit_bytes})")
    tokenizer = Tokenizer(fit(lines, vocab))
    with open_output(run.output) as output:
        output.write(tokenizer.model)
    run.say(f"{tokenizer.vocab_size:,} pieces in {run.output}, sha256 {tokenizer.sha256}")
    run.note(pieces=tokenizer.vocab_size, sha256=tokenizer.sha256, share=share)
