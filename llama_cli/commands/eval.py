"""`llama eval`: tasks and a model to scores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_cli.commands._answering import (
    MODEL,
    Asked,
    answering_options,
    fit_of,
    open_model,
    refuse_shared_stdin,
)
from llama_cli.commands._eval_check import look
from llama_cli.commands._eval_options import asked, asking_options
from llama_cli.commands._eval_overlap import AGAINST, NGRAM, found
from llama_cli.commands._eval_scorers import SCORER, opened
from llama_cli.commands._eval_summarise import tell
from llama_cli.commands._eval_words import WORDS
from llama_cli.commands._options import Worded, stream_options

if TYPE_CHECKING:
    from llama_cli.evaluation.request import Graded
    from llama_cli.stream.run import Run


@click.command("eval", cls=Worded, words=WORDS)
@asking_options
@answering_options
@click.option(
    "--rows", type=click.Path(path_type=Path), metavar="FILE", help="Write each row's mark here."
)
@SCORER
@AGAINST
@NGRAM
@click.option(
    "--unsafe", is_flag=True, help="Where no sandbox works, run generated programs without one."
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _list(ctx) if value else None,
    help="List the tasks, and end.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Write what the model would see, and end.")
@stream_options(files=False, drops=False, seed=True, max_rejects=0, ranks=True)
def command(
    run: Run,
    rows: Path | None,
    scorers: tuple[str, ...],
    against: tuple[str, ...],
    ngram: int,
    unsafe: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Score a model beside the paper's figures.

    Each task is asked and graded as in section 3 of the paper; --list shows their shots and
    rules. Without a FILE in --data, bits_per_byte reads documents from stdin. Scores go to stdout
    as JSON lines and to stderr as a table; on a terminal only the table is shown. The stages also
    run alone: render, answer, grade, summarise. Generated programs run --jobs at a time, in a
    sandbox.

    \b
      llama eval bits_per_byte --model runs/first --data held-out.jsonl.zst
      llama eval piqa arc_easy --data benchmarks/ --rows rows.jsonl -o scores.jsonl
      llama eval mmlu --data benchmarks/ --model http://localhost:8000/v1 --model-name 7B --cache c/
      llama eval render piqa --data benchmarks/ | ./any-model | llama eval grade
      llama eval realtoxicityprompts_basic --data benchmarks/ --scorer linear:toxicity.safetensors
      llama eval boolq --data benchmarks/ --against corpus.jsonl.zst
      llama eval --list
      llama eval sandbox-check
    """
    model_options = Asked(**{name: options.pop(name) for name in MODEL})
    wanted = asked(run, **options)
    if dry_run:
        run.write(wanted.requests())
        return
    if not all(task.files for task in wanted.tasks):
        refuse_shared_stdin(run)
    from llama_cli.evaluation.tools import need, open_tools
    from llama_cli.stream.writer import see_output

    see_output(run.output)
    see_output(rows)

    jobs = run.jobs or os.cpu_count() or 1
    with open_tools(unsafe=unsafe, jobs=jobs, scorers=opened(scorers, run.say)) as tools:
        need(wanted.tasks, tools)
        with open_model(run, model_options) as model:
            look(run, wanted.tasks, wanted.data)
            responses = model(wanted.requests(fit_of(model)))
            if not model.first:  # another process has the responses
                deque(responses, maxlen=0)
                return
            contacts = found(run, wanted, against, ngram) if against else []

            from llama_cli.evaluation.contamination import apart
            from llama_cli.evaluation.grade import grade
            from llama_cli.evaluation.summary import summarise

            tell(run, summarise(_kept(apart(grade(responses, tools), contacts), rows)))


def _kept(graded: Iterable[Graded], rows: Path | None) -> Iterator[Graded]:
    """Pass marks on, and write each to a file where asked."""
    from llama_cli.stream.writer import open_output

    with ExitStack() as stack:
        output = stack.enter_context(open_output(rows)) if rows else None
        for each in graded:
            if output:
                output.write(each.to_json() + b"\n")
            yield each


def _list(ctx: click.Context) -> None:
    from llama_cli.evaluation.catalogue import catalogue
    from llama_cli.evaluation.tasks import TASKS

    click.echo(catalogue(TASKS.values()))
    ctx.exit()
