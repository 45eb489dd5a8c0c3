"""`llama eval summarise`: marks to figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llama_cli.commands._options import Command, show, stream_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llama_cli.records import Score
    from llama_cli.stream.run import Run


@click.command("summarise", cls=Command)
@click.option(
    "--overlap",
    type=click.Path(),
    metavar="FILE",
    help="Score clean and dirty rows apart, as `llama eval overlap` has found them.",
)
@stream_options(jobs=False, drops=False, max_rejects=0)
def command(run: Run, overlap: str | None) -> None:
    """Add up marks, beside the paper's figures.

    Reads what `llama eval grade` writes. Scores go to stdout as JSON lines and to stderr as a
    table; on a terminal only the table is shown. A row may come once for each model; the ids of
    rows are held in memory.

    \b
      llama eval summarise graded.jsonl
      llama eval summarise graded.jsonl --overlap overlap.jsonl
      jq -c 'select(.meta.groups[0] == "STEM")' graded.jsonl | llama eval summarise
    """
    from llama_cli.evaluation.request import Graded
    from llama_cli.evaluation.summary import summarise

    graded = run.read(Graded.from_json)
    if overlap:
        from llama_cli.evaluation.contamination import apart, read_contacts

        graded = apart(graded, read_contacts(overlap))
    tell(run, summarise(graded))


def tell(run: Run, scores: Iterable[Score]) -> None:
    """Write the scores, and the table where a person reads."""
    from llama_cli.evaluation.report import results

    found = list(scores)
    run.note(scores={each.task: each.value for each in reversed(found) if not each.group})
    show(run, found, results(found))
