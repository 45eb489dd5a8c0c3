"""The options that say which rows are asked, and how: of `llama eval` and `llama eval render`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llama_cli.commands._complete import paths, tasks
from llama_cli.commands._eval_words import WORDS
from llama_cli.config import nearest
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.evaluation.data import Data
    from llama_cli.evaluation.render import Fit, Setting
    from llama_cli.evaluation.request import Request
    from llama_cli.evaluation.task import Task
    from llama_cli.stream.run import Run

F = TypeVar("F", bound=Callable[..., Any])

ASKING = (
    click.argument("tasks", nargs=-1, metavar="TASK...", shell_complete=tasks),
    click.option(
        "--data",
        multiple=True,
        shell_complete=paths,
        metavar="PATH",
        help="A directory with a benchmark's official files, or a FILE of documents for "
        "bits_per_byte (- is stdin). May be repeated.",
    ),
    click.option(
        "--shots",
        type=click.IntRange(0),
        metavar="N",
        help="Worked examples before each row.  [default: as the paper, see --list]",
    ),
    click.option(
        "--examples",
        multiple=True,
        metavar="TASK=FILE",
        help="Worked examples as published, put before each row of TASK as they are in FILE. "
        "May be repeated.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(1),
        metavar="N",
        help="Completions of each row, where they are drawn.  [default: see the task]",
    ),
    click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Only the first N rows of each."
    ),
)


def asking_options(function: F) -> F:
    """Add TASK..., --data, --shots, --examples, --samples and --limit."""
    for option in reversed(ASKING):
        function = option(function)
    return function


def naming_options(function: F) -> F:
    """Add TASK... and --data alone."""
    for option in reversed(ASKING[:2]):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class Asking:
    """What the options above ask for."""

    tasks: Sequence[Task]
    data: Data
    setting: Setting

    def requests(self, fit: Fit | None = None) -> Iterator[Request]:
        """Render every row of every task."""
        from llama_cli.evaluation.render import render

        for task in self.tasks:
            yield from render(task, self.data, self.setting, fit)


def asked(
    run: Run,
    tasks: tuple[str, ...],
    data: tuple[str, ...],
    shots: int | None = None,
    examples: tuple[str, ...] = (),
    samples: int | None = None,
    limit: int | None = None,
) -> Asking:
    """Check that the tasks, their files and what goes before each row are there.

    Raises:
        UsageError: a task, a file or a pair of options is not as it should be.
        NotReadyError: a benchmark's files are in no --data.
    """
    from llama_cli.evaluation.render import Setting, check
    from llama_cli.evaluation.tasks import TASKS

    wanted = _wanted(tasks, TASKS)
    texts = dict(_example(each, wanted) for each in examples)
    setting = Setting(shots=shots, samples=samples, seed=run.seed, limit=limit, examples=texts)
    for task in wanted:
        check(task, setting)
    return Asking(wanted, _data(run, wanted, data), setting)


def _wanted(names: tuple[str, ...], known: Mapping[str, Task]) -> list[Task]:
    if not names:
        raise UsageError("no task was named", hint="llama eval --list")
    for name in names:
        if name not in known:
            near = nearest(name, [*known, *WORDS])
            raise UsageError(
                f"no task '{name}'", hint=f"llama eval {near}" if near else "llama eval --list"
            )
    return [known[name] for name in dict.fromkeys(names)]


def _example(pair: str, wanted: Sequence[Task]) -> tuple[str, str]:
    name, equals, path = pair.partition("=")
    if not equals or name not in {task.name for task in wanted}:
        raise UsageError(f"--examples {pair} is not TASK=FILE with a task that was named")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--examples {pair}: {path} is not UTF-8 text") from None
    if not text.strip():
        raise UsageError(f"--examples {pair}: {path} has no text")
    if not text.endswith("\n"):
        raise UsageError(f"--examples {pair}: {path} ends in mid-line, where a row would begin")
    return name, text


def _data(run: Run, wanted: Sequence[Task], paths: tuple[str, ...]) -> Data:
    """Part directories of benchmarks from files of documents, and check that all is there."""
    from llama_cli.evaluation.data import Data, locate
    from llama_cli.records import Document

    directories = [Path(path) for path in paths if Path(path).is_dir()]
    files = tuple(path for path in paths if not Path(path).is_dir())
    missing = [
        path for path in files if path != "-" and "://" not in path and not Path(path).exists()
    ]
    if missing:
        raise UsageError(f"no file or directory {missing[0]}")
    every = all(task.files for task in wanted)
    if every and files:
        raise UsageError(f"{files[0]} is no directory, and only bits_per_byte reads documents")
    for task in wanted:
        if task.files:
            locate(task.name, task.files, directories)
    if not every and not files and sys.stdin.isatty():
        raise UsageError(
            "bits_per_byte needs documents: --data FILE, or stdin",
            hint="llama eval bits_per_byte --data held-out.jsonl",
        )
    run.inputs = files or ("-",)
    return Data(directories, lambda: run.read(Document.from_json), run.watch)
