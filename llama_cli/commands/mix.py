"""`llama mix`: token ids of many documents to a mixture of equally long sequences."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from llama_cli.commands._options import Command, stream_options
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.mixture.corpus import Corpus
    from llama_cli.mixture.pack import Mixture
    from llama_cli.stream.run import Run


class WeightList(click.ParamType[dict[str, float]]):
    """NAME=W,NAME=W."""

    name = "weights"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, float]:
        """Read the list."""
        weights = {}
        for part in filter(None, value.split(",")):
            name, _, weight = part.partition("=")
            try:
                weights[name.strip()] = float(weight)
            except ValueError:
                self.fail(f"'{part}' is not NAME=WEIGHT", param, ctx)
            if not 0 <= weights[name.strip()] < math.inf:
                self.fail(f"the weight of '{name}' is not a number from 0 on", param, ctx)
        return weights


@click.command("mix", cls=Command)
@stream_options(seed=True, drops=False, max_rejects=0)
@click.option(
    "--weights",
    type=WeightList(),
    metavar="NAME=W,...",
    help="Proportions, in any unit.  [default: Table 1 of the paper]",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Tokens to draw, a source repeating as often as it must.  [default: as many as come in]",
)
@click.option(
    "--length",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="Tokens to predict in a sequence, which holds one more.",
)
@click.option(
    "--tokenizer",
    "model",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What made the ids; others are refused.  [default: the one that comes with llama]",
)
@click.option("-n", "--dry-run", is_flag=True, help="Print the table of the mixture, and end.")
def command(
    run: Run,
    weights: dict[str, float] | None,
    tokens: int | None,
    length: int,
    model: Path | None,
    dry_run: bool,
) -> None:
    """Interleave sources by weight into training sequences.

    Reads tokens as JSON lines (plain or compressed) from FILEs or stdin, or from FILEs that
    are directories of shards. Writes a line a sequence to stdout or to -o FILE.jsonl[.zst],
    or binary shards to -o DIRECTORY, any name without such a suffix. Without --weights, a
    source that Table 1 does not have gets its own share of the tokens.

    \b
      llama tokenize clean.jsonl.zst | llama mix -o mixed
      llama mix tokens/ --weights books=2,github=1 --tokens 1000000 | llama train

    Documents from JSON lines are kept on disk meanwhile (two bytes a token, beside -o or in
    TMPDIR). Memory grows by 64 bytes a document. Nothing is kept from a run that is stopped:
    the same command starts again.
    """
    from llama_cli.mixture.pack import Mixture, sequences_in
    from llama_cli.mixture.report import differences, repeated, table
    from llama_cli.mixture.weights import choose
    from llama_cli.shards.write import check_target, means_shards

    if means_shards(run.output):
        check_target(run.output)  # now, not after hours
    with ExitStack() as stack:
        corpus = _corpus(run, model, stack)
        chosen = choose(corpus.tokens, weights)
        for line in differences(chosen):
            run.say(line)
        available = sum(corpus.tokens[name] for name in chosen.of)
        stop = sequences_in(available, tokens=tokens, length=length)
        mixture = Mixture(corpus, chosen.of, length=length, seed=run.seed)
        shares = mixture.shares(stop)
        run.note(sequences=stop, tokens=stop * length, sources=[asdict(share) for share in shares])
        if dry_run:
            click.echo("\n".join(table(shares)))
            return
        _write(run, corpus, mixture, stop)
        for line in (*table(shares), *repeated(shares)):
            run.say(line)


def _corpus(run: Run, model: Path | None, stack: ExitStack) -> Corpus:
    from llama_cli.mixture.corpus import Corpus, packed, parse_known, spool
    from llama_cli.shards.read import Shards
    from llama_cli.shards.write import means_shards
    from llama_cli.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(model)
    directories = [where for where in run.inputs if Path(where).is_dir()]
    if directories:
        if len(directories) < len(run.inputs):
            raise UsageError("shard directories and files do not go together in one mixture")
        corpus = Corpus(list(map(Shards, directories)), tokenizer.sha256 if model else None)
        run.counts.read += len(corpus.lengths)
        return corpus
    beside = run.output.parent if means_shards(run.output) else None
    if beside:
        beside.mkdir(parents=True, exist_ok=True)
    place = Path(
        stack.enter_context(TemporaryDirectory(prefix=".mix.", suffix=".part", dir=beside))
    )
    documents = run.map(partial(parse_known, vocab_size=tokenizer.vocab_size), packed)
    spool(documents, place / "tokens", tokenizer.vocab_size, tokenizer.sha256)
    return Corpus([Shards(place / "tokens")])


def _write(run: Run, corpus: Corpus, mixture: Mixture, stop: int) -> None:
    from llama_cli.records import Sequence
    from llama_cli.shards.write import ShardWriter, means_shards

    sequences = mixture.sequences(0, stop)
    if not means_shards(run.output):
        run.write(Sequence(tokens.tolist(), [source]) for tokens, source in sequences)
        return
    with ShardWriter(
        run.output,
        kind="sequences",
        vocab_size=corpus.vocab_size,
        tokenizer_sha256=corpus.tokenizer_sha256,
        recipe=mixture.recipe,
    ) as shards:
        for tokens, source in run.count(sequences):
            shards.add(tokens, source)
