"""`llama eval overlap`: which rows of benchmarks stand in a corpus."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._eval_options import Asking, asked, naming_options
from llama_cli.commands._options import Command, stream_options
from llama_cli.errors import LlamaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama_cli.evaluation.contamination import Contact, Seen
    from llama_cli.overlap.index import Index
    from llama_cli.stream.run import Run

AGAINST = click.option(
    "--against",
    multiple=True,
    shell_complete=paths,
    metavar="FILE",
    help="Look for text of the rows in these documents, and score clean and dirty rows apart. "
    "May be repeated.",
)
NGRAM = click.option(
    "--ngram",
    type=click.IntRange(1, 100),
    default=13,
    show_default=True,
    metavar="N",
    help="With --against: words in a row that are an overlap.",
)


@click.command("overlap", cls=Command)
@naming_options
@AGAINST
@NGRAM
@stream_options(files=False, drops=False, max_rejects=0)
def command(
    run: Run, tasks: tuple[str, ...], data: tuple[str, ...], against: tuple[str, ...], ngram: int
) -> None:
    """Find the rows of benchmarks that stand in a corpus.

    Writes a line for each row: clean, dirty, or too short to be told; in how many documents it
    stands, and which is the first. A row is dirty if 13 words in a row of one of its texts are in
    a document, whatever their case and punctuation. The documents are read once, on --jobs
    processes, and are not held in memory. No model is needed.

    \b
      llama eval overlap boolq mmlu --data benchmarks/ --against train.jsonl.zst -o overlap.jsonl
      llama eval summarise graded.jsonl --overlap overlap.jsonl
    """
    if not against:
        raise UsageError("no corpus was named", hint="llama eval overlap boolq --against FILE")
    run.write(found(run, asked(run, tasks, data), against, ngram))


def found(run: Run, wanted: Asking, against: tuple[str, ...], ngram: int) -> list[Contact]:
    """Read the corpus, and say how many rows of each task stand in it."""
    from llama_cli.evaluation.contamination import contacts, look
    from llama_cli.records import Document

    if not any(task.files for task in wanted.tasks):
        raise UsageError("--against looks for rows of benchmarks, and none was named")

    def sweep(index: Index) -> Iterable[Seen | None]:
        before = run.counts.read
        yield from run.map(Document.from_json, partial(look, index=index), inputs=against)
        if run.counts.read == before:
            raise LlamaError(f"{', '.join(against)} has no document to look in")

    rows = list(contacts(wanted.tasks, wanted.data, sweep, ngram))
    _say(run, rows)
    return rows


def _say(run: Run, rows: Iterable[Contact]) -> None:
    counts = Counter((row.task, row.subset) for row in rows)
    for task in dict.fromkeys(task for task, _ in counts):
        told = {subset: counts[task, subset] for subset in ("clean", "dirty", "short")}
        run.say(f"{task}: " + ", ".join(f"{count:,} {name}" for name, count in told.items()))
