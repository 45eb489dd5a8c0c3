"""`llama eval check`: are a benchmark's files whole, and right? Every run looks first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._complete import tasks as task_names
from llama_cli.commands._eval_options import asked
from llama_cli.commands._options import Command, show, stream_options
from llama_cli.errors import LlamaError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llama_cli.evaluation.check import Finding
    from llama_cli.evaluation.data import Data
    from llama_cli.evaluation.task import Task
    from llama_cli.stream.run import Run


@click.command("check", cls=Command)
@click.argument("tasks", nargs=-1, metavar="TASK...", shell_complete=task_names)
@click.option(
    "--data",
    multiple=True,
    metavar="DIR",
    shell_complete=paths,
    help="A directory of benchmarks. May be repeated.",
)
@stream_options(files=False, lines=False, jobs=False, drops=False)
def command(run: Run, tasks: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Look at a benchmark's files before they are scored.

    Each label must be one of its row's options, and each id that of one row: what is not is an
    error, named by file and line, and the end is 1. Noted are rows that stand twice, how many
    rows of how many there are, and whether a file is the published one by its SHA-256. Findings
    go to stdout as JSON lines and to stderr as text; on a terminal only the text is shown. A run
    of `llama eval` looks for the same, and ends at an error.

    \b
      llama eval check arc_easy mmlu --data benchmarks/
      llama eval check piqa --data benchmarks/ > findings.jsonl
    """
    from llama_cli.evaluation.check import check_task, check_worked, errors

    wanted = asked(run, tasks, data, shots=None, examples=(), samples=None, limit=None)
    found = [
        each
        for task in wanted.tasks
        for look_at in (check_task, check_worked)
        for each in look_at(task, wanted.data)
    ]
    told = [f"{each.level}: {each}" for each in found] or ["documents are not looked at"]
    show(run, found, "\n".join(map(one_line, told)))
    if wrong := errors(found):
        raise LlamaError(_told(wrong))


def look(run: Run, tasks: Iterable[Task], data: Data) -> None:
    """Say what is to be known of the rows before a run, and let no run begin with wrong ones.

    Raises:
        LlamaError: a row cannot be scored as its authors meant.
    """
    from llama_cli.evaluation.check import check_task, errors

    for task in tasks:
        found = list(check_task(task, data))
        if wrong := errors(found):
            raise LlamaError(_told(wrong), hint=f"llama eval check {task.name} --data DIR")
        for finding in found:
            if not finding.line:  # of the whole; `check` names each row
                run.say(str(finding))


def _told(wrong: Sequence[Finding]) -> str:
    more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more}"
