"""`llama filter`: options to the settings of the rules, and documents through them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._options import OUTPUT, Command, Real, stream_options
from llama_cli.records import Document

if TYPE_CHECKING:
    from llama_cli.filters import Step
    from llama_cli.stream.run import Run

SHARE = Real(0, 1)


@click.command("filter", cls=Command)
@stream_options()
@click.option(
    "--language",
    default="en",
    show_default=True,
    metavar="CODE",
    help="common_crawl, c4: keep this language (ISO 639), or any.",
)
@click.option(
    "--min-score",
    type=SHARE,
    default=0.5,
    show_default=True,
    help="common_crawl, c4: probability that it is that language.",
)
@click.option(
    "--min-characters",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    help="common_crawl: shortest page, before and after its repeated paragraphs are gone.",
)
@click.option(
    "--min-words",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="c4: words in a line.",
)
@click.option(
    "--min-sentences",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="c4: sentences in a page.",
)
@click.option(
    "--max-line",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="github: longest line, in characters.",
)
@click.option(
    "--max-mean-line",
    type=Real(0),
    default=100,
    show_default=True,
    help="github: mean length of lines, in characters.",
)
@click.option(
    "--min-alnum",
    type=SHARE,
    default=0.25,
    show_default=True,
    help="github: share of letters and digits.",
)
@click.option(
    "--held-out", type=OUTPUT, metavar="FILE", help="Set documents aside here for evaluation."
)
@click.option(
    "--held-out-share",
    type=SHARE,
    default=0.01,
    show_default=True,
    help="Share of the documents that is set aside, chosen by id.",
)
@click.option(
    "--against",
    shell_complete=paths,
    multiple=True,
    metavar="PATH",
    help="Look for text of these benchmark rows: a FILE of JSON lines, JSON, CSV or TSV, or a "
    "directory of them. May be repeated.",
)
@click.option(
    "--overlap",
    type=click.Choice(["mark", "remove"]),
    default="remove",
    show_default=True,
    help="With --against: drop such documents, or keep them with metadata.contamination.",
)
@click.option(
    "--ngram",
    type=click.IntRange(1, 100),
    default=13,
    show_default=True,
    metavar="N",
    help="With --against: words in a row that are an overlap.",
)
def command(
    run: Run,
    held_out: Path | None,
    held_out_share: float,
    against: tuple[str, ...],
    overlap: str,
    ngram: int,
    **rules: float,
) -> None:
    """Clean documents, and drop those that break the rules for their source.

    Reads JSON lines (plain or compressed) from FILEs or stdin, and writes the same. The
    rules are section 2.1's: CCNet's for common_crawl, C4's for c4, line shapes and licence
    headers for github. Then repeated paragraphs (common_crawl, c4) and exact copies (all
    sources) go; the first stays. Nothing is kept from a run that is stopped: the same
    command starts again.

    \b
      llama fetch github src/ | llama filter --rejects dropped.jsonl.zst > clean.jsonl
      llama filter raw/*.jsonl.zst -j 0 -o clean.jsonl.zst --report filter.json
      llama filter raw.jsonl.zst --held-out validation.jsonl -o clean.jsonl
      llama filter raw.jsonl.zst --against benchmarks/ --rejects dropped.jsonl -o clean.jsonl

    Memory grows by 10 to 14 bytes for each paragraph of the web and each document: what
    was seen before is told by 64-bit hashes. --against holds about 25 bytes a word of the
    benchmarks.
    """
    from llama_cli.filters.duplicates import first_copies, prepare
    from llama_cli.filters.held_out import hold_out
    from llama_cli.filters.recipes import Settings
    from llama_cli.stream.writer import open_output

    settings = Settings(**rules)  # type: ignore[arg-type]
    further = _apart(run, against, overlap, ngram) if against else []
    candidates = run.map(Document.from_json, partial(prepare, settings=settings, further=further))
    documents = first_copies(candidates, settings)
    number = 0
    with ExitStack() as stack:
        if held_out:
            aside = stack.enter_context(open_output(held_out))

            def keep(document: Document) -> None:
                nonlocal number
                aside.write(document.to_json() + b"\n")
                number += 1

            documents = hold_out(documents, held_out_share, keep)
        run.write(documents)
    if held_out:
        run.note(held_out=number)
        run.say(f"held out {number:,} documents in {held_out}")


def _apart(run: Run, against: tuple[str, ...], overlap: str, ngram: int) -> list[Step]:
    """Index benchmarks, and say what of them can be found."""
    from llama_cli.filters.contamination import keep_apart, read_benchmark

    benchmark = read_benchmark(map(Path, against), ngram)
    told, rows = int(benchmark.index.told.sum()), len(benchmark.names)
    short = f"; {rows - told:,} more are too short to be told" if told < rows else ""
    run.say(f"against {told:,} benchmark rows{short}")
    run.note(against={"rows": rows, "told": told})
    return [partial(keep_apart, benchmark=benchmark, remove=overlap == "remove")]
