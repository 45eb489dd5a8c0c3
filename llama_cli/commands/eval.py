"""`llama eval`: tasks and a model to scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._model import model_options, open_engine
from llama_cli.commands._options import Worded, stream_options
from llama_cli.config import nearest
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.evaluation.data import Data
    from llama_cli.evaluation.score import Tally
    from llama_cli.evaluation.task import Task
    from llama_cli.inference.engine import Engine
    from llama_cli.stream.run import Run


@click.command(
    "eval", cls=Worded, words={"answer": "_eval_answer", "sandbox-check": "_eval_sandbox_check"}
)
@click.argument("tasks", nargs=-1, metavar="TASK...")
@click.option(
    "--data",
    multiple=True,
    metavar="PATH",
    help="A directory with a benchmark's official files, or a FILE of documents for "
    "bits_per_byte (- is stdin). May be repeated.",
)
@model_options
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N rows of each.")
@click.option(
    "--rows", type=click.Path(path_type=Path), metavar="FILE", help="Write each row's result here."
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
@stream_options(files=False, jobs=False, drops=False)
def command(
    run: Run,
    tasks: tuple[str, ...],
    data: tuple[str, ...],
    model: Path | None,
    device: str,
    batch: int,
    limit: int | None,
    rows: Path | None,
    dry_run: bool,
) -> None:
    """Score a model beside the paper's figures.

    Choices are ranked by likelihood a character, as in section 3 of the paper. Without a FILE
    in --data, bits_per_byte reads documents from stdin; those longer than the context are
    scored in windows. Scores go to stdout as JSON lines and to stderr as a table; on a
    terminal only the table is shown.

    \b
      llama eval bits_per_byte --model runs/first --data held-out.jsonl.zst
      llama eval piqa arc_easy --data benchmarks/ --rows rows.jsonl -o scores.jsonl
      llama eval --list
      llama eval sandbox-check
    """
    from llama_cli.evaluation.tasks import TASKS

    wanted = _wanted(tasks, TASKS)
    given = _data(run, wanted, data, limit)
    if dry_run:
        from llama_cli.evaluation.ask import show

        run.write(question for task in wanted for question in show(task, given))
        return
    engine = open_engine(run, model, device)
    _tell(run, _scored(run, wanted, given, engine, rows, batch))


def _list(ctx: click.Context) -> None:
    from llama_cli.evaluation.report import catalogue
    from llama_cli.evaluation.tasks import TASKS

    click.echo(catalogue(TASKS.values()))
    ctx.exit()


def _wanted(names: tuple[str, ...], known: Mapping[str, Task]) -> list[Task]:
    if not names:
        raise UsageError("no task was named", hint="llama eval --list")
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise UsageError(
                f"no task '{name}'; there are {', '.join(known)}",
                hint=f"llama eval {near}" if near else "llama eval --list",
            )
    return [known[name] for name in dict.fromkeys(names)]


def _data(run: Run, wanted: list[Task], paths: tuple[str, ...], limit: int | None) -> Data:
    """Part directories of benchmarks from files of documents, and check that all is there."""
    from llama_cli.evaluation.data import Data, locate
    from llama_cli.evaluation.task import Choice
    from llama_cli.records import Document

    directories = [Path(path) for path in paths if Path(path).is_dir()]
    files = [path for path in paths if not Path(path).is_dir()]
    missing = [
        path for path in files if path != "-" and "://" not in path and not Path(path).exists()
    ]
    if missing:
        raise UsageError(f"no file or directory {missing[0]}")
    choices = [task for task in wanted if isinstance(task, Choice)]
    for task in choices:
        locate(task, directories)
    if len(choices) == len(wanted) and files:
        raise UsageError(f"{files[0]} is no directory, and only bits_per_byte reads documents")
    if len(choices) < len(wanted) and not files and sys.stdin.isatty():
        raise UsageError(
            "bits_per_byte needs documents: --data FILE, or stdin",
            hint="llama eval bits_per_byte --data held-out.jsonl",
        )
    run.inputs = files or ("-",)
    return Data(directories, lambda: run.read(Document.from_json), limit, run.watch)


def _scored(
    run: Run, wanted: list[Task], data: Data, engine: Engine, rows: Path | None, batch: int
) -> list[Tally]:
    from llama_cli.evaluation.run import Result, evaluate
    from llama_cli.stream.writer import open_output

    with ExitStack() as stack:
        output = stack.enter_context(open_output(rows)) if rows else None

        def keep(result: Result) -> None:
            if output:
                output.write(result.to_json() + b"\n")

        return [evaluate(task, data, engine, batch=batch, keep=keep) for task in wanted]


def _tell(run: Run, tallies: list[Tally]) -> None:
    """Write the scores, and the table where a person reads."""
    from llama_cli.evaluation.report import results

    scores = [tally.score() for tally in tallies]
    run.note(scores={score.task: score.value for score in scores})
    on_terminal = run.output is None and sys.stdout.isatty()
    if not on_terminal:
        run.write(scores)
    if on_terminal or not run.quiet:
        click.echo(results(tallies), err=not on_terminal)
