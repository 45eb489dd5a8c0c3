"""`llama eval compare`: two runs on the same rows, and whether they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._options import Command, show, stream_options
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.evaluation.compare import Rows
    from llama_cli.stream.run import Run


@click.command("compare", cls=Command)
@click.argument("a", metavar="A", shell_complete=paths)
@click.argument("b", metavar="B", shell_complete=paths)
@stream_options(files=False, jobs=False, drops=False, seed=True, max_rejects=0)
def command(run: Run, a: str, b: str) -> None:
    """Compare two runs row by row, and say whether they differ by more than chance.

    A and B are graded rows, as JSON lines, of two models or of one model asked in two ways; one
    of them may be - for stdin. Rows are paired by task and id. For each metric of each task:
    both figures and their difference with 95% intervals, the rows that flipped each way,
    McNemar's exact test (the paired bootstrap where rows are not right or wrong), and the
    smallest difference that would have shown. Comparisons go to stdout as JSON lines and to
    stderr as a table; on a terminal only the table is shown. The rows of both are held in memory.

    \b
      llama eval compare before.jsonl after.jsonl
      llama eval compare runs/a/rows.jsonl.zst - < rows.jsonl > difference.jsonl
    """
    from llama_cli.evaluation.compare import apart, compare
    from llama_cli.evaluation.compare_words import describe

    if a == b == "-":
        raise UsageError("only one of A and B can be stdin")
    (first, first_name), (second, second_name) = (_held(run, where) for where in (a, b))
    found = compare(first, second, seed=run.seed)
    unlike = apart(first, second)
    run.note(only_a=dict(unlike.only_a), only_b=dict(unlike.only_b), asked=dict(unlike.asked))
    show(run, found, describe(found, unlike, first_name, second_name))


def _held(run: Run, where: str) -> tuple[Rows, str]:
    """Read a run, and which models answered it."""
    from llama_cli.evaluation.compare import held, models
    from llama_cli.evaluation.request import Graded
    from llama_cli.stream.reader import shown

    run.inputs = (where,)
    names: set[str] = set()
    rows = held(models(run.read(Graded.from_json), names), shown(where))
    return rows, ", ".join(sorted(name for name in names if name))
