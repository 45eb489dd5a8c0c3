"""`llama eval`: tasks and a model to scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_cli.commands._eval_options import asked, asking_options
from llama_cli.commands._eval_summarise import tell
from llama_cli.commands._model import find_source, load_engine, model_options, pick_device
from llama_cli.commands._options import Worded, stream_options

if TYPE_CHECKING:
    from llama_cli.evaluation.request import Graded
    from llama_cli.stream.run import Run

WORDS = {
    "render": "_eval_render",
    "answer": "_eval_answer",
    "grade": "_eval_grade",
    "summarise": "_eval_summarise",
    "sandbox-check": "_eval_sandbox_check",
}


@click.command("eval", cls=Worded, words=WORDS)
@asking_options
@model_options
@click.option(
    "--rows", type=click.Path(path_type=Path), metavar="FILE", help="Write each row's mark here."
)
@click.option("--unsafe", is_flag=True, help="Run generated programs without a sandbox.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, value: _list(ctx) if value else None,
    help="List the tasks, and end.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Write what the model would see, and end.")
@stream_options(files=False, drops=False, seed=True)
def command(
    run: Run,
    model: Path | None,
    device: str,
    batch: int,
    rows: Path | None,
    unsafe: bool,
    dry_run: bool,
    **asking: Any,
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
      llama eval render piqa --data benchmarks/ | ./any-model | llama eval grade
      llama eval --list
      llama eval sandbox-check
    """
    wanted = asked(run, **asking)
    if dry_run:
        run.write(wanted.requests())
        return
    from llama_cli.evaluation.tools import need, open_tools

    with open_tools(unsafe=unsafe, jobs=run.jobs or os.cpu_count() or 1) as tools:
        need(wanted.tasks, tools)

        from llama_cli.evaluation.grade import grade
        from llama_cli.evaluation.local import local
        from llama_cli.evaluation.render import Fit
        from llama_cli.evaluation.summary import summarise

        source = find_source(run, model)
        engine = load_engine(source, pick_device(device, run.settings.command))
        fit = Fit(lambda text: len(engine.tokenizer.encode(text)), engine.context)
        answer = local(engine, name=str(source.directory), batch=batch)
        graded = grade(answer(wanted.requests(fit)), tools)
        tell(run, summarise(_kept(graded, rows)))


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
