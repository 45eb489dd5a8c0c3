"""Options that several commands share, each defined once.

`Command` gives every command -q, -v, --color, --config and --show-config, and fills
unset options from the configuration files. `stream_options` gives a streaming command its
FILEs, outputs and workers, and hands it an open `Run`.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from llama_cli.cli import COMMANDS
from llama_cli.commands._complete import paths
from llama_cli.commands._eval_words import WORDS
from llama_cli.config import Origins, settings
from llama_cli.errors import UsageError
from llama_cli.stream.progress import tell

if TYPE_CHECKING:
    from llama_cli.stream.run import Record, Run

F = TypeVar("F", bound=Callable[..., Any])


class Real(click.FloatRange):
    """A finite number within bounds; "nan" is within any for click."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


class Named(click.Path):
    """A path with a name; "" would be this directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the path."""
        if value == "":
            self.fail("a name is wanted", param, ctx)
        return super().convert(value, param, ctx)


SEEDS = click.IntRange(0, 2**32 - 1)  # what every generator takes
OUTPUT = click.Path(path_type=Path)
STREAM = ("output", "rejects", "report", "max_rejects", "jobs", "line_buffered")
STDOUT = Path("-")
WRITTEN = (  # each a file of its own
    *("output", "rejects", "report", "held_out", "rows", "markdown", "json", "picture"),
)
READ = ("inputs", "data", "against", "a", "b")  # paths, none of which may be written over
OWN = ("config", "show_config", "color")  # not settings of the command itself


class Command(click.Command):
    """A command with the options that mean the same everywhere, and configuration files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common())

    def invoke(self, ctx: click.Context) -> Any:
        """Show the settings and end, where asked; otherwise run."""
        for name in OWN:
            ctx.params.pop(name, None)
        if ctx.meta.get("llama.show_config"):
            click.echo("\n".join(_origins(ctx).values()))
            return None
        return super().invoke(ctx)


class Worded(Command):
    """A command some of whose first arguments are commands of their own.

    `words` names the module of each in `llama_cli.commands`, imported only when it is meant.
    """

    def __init__(self, *args: Any, words: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.words = words

    def word(self, name: str) -> click.Command:
        """Import the command behind a word."""
        module = importlib.import_module(f"llama_cli.commands.{self.words[name]}")
        found: click.Command = module.command
        return found

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Give way to the command that the first argument names."""
        if not args or args[0] not in self.words:
            return super().make_context(info_name, args, parent, **extra)
        name = f"{info_name} {args[0]}"
        if parent:
            parent.meta["llama.word"] = args[0]  # so that errors name it
        if parent and parent.auto_envvar_prefix:
            words = re.sub(r"\W", "_", name).upper()
            extra["auto_envvar_prefix"] = f"{parent.auto_envvar_prefix}_{words}"
        return self.word(args[0]).make_context(name, args[1:], parent, **extra)


def _common() -> list[click.Parameter]:
    return [
        click.Option(["-q", "--quiet"], is_flag=True, help="Say nothing but fatal errors."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Say more."),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            show_default=True,
            is_eager=True,
            callback=_set_color,
            help="Colour the name before a fatal error; data never is.",
        ),
        click.Option(
            ["--config"],
            metavar="FILE",
            shell_complete=paths,
            is_eager=True,
            callback=_read_config,
            help="Settings as TOML (- is stdin), instead of ./llama.toml and the user's file.",
        ),
        click.Option(
            ["--show-config"],
            is_flag=True,
            is_eager=True,
            callback=_note_show_config,
            help="Print each setting and where it came from, and end.",
        ),
    ]


def _set_color(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value == "always":
        os.environ.pop("NO_COLOR", None)
        os.environ["FORCE_COLOR"] = "1"
    elif value == "never":
        os.environ.pop("FORCE_COLOR", None)
        os.environ["NO_COLOR"] = "1"
    return value


def _read_config(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    name = ctx.info_name or ""
    names = [option.name for option in ctx.command.params if option.name and option.name not in OWN]
    stages = (f"eval {word}" for word in WORDS)
    known = {command: names if command == name else [] for command in (*COMMANDS, *stages, name)}
    found = settings(name, known, value)
    params = {option.name: option for option in ctx.command.params}
    ctx.default_map = {key: _words(params[key], *found[key]) for key in found}
    ctx.meta["llama.origins"] = found
    return value


def _words(param: click.Parameter, value: Any, where: str) -> Any:
    """Give a setting of a file as the command line would, for the option's type to read."""
    many = param.nargs == -1 or getattr(param, "multiple", False)
    values = value if isinstance(value, list) and many else [value]
    if not all(isinstance(each, (str, int, float)) and "\0" not in str(each) for each in values):
        name = str(param.name).replace("_", "-")
        kind = "list of words or numbers" if many else "word, a number, true or false"
        raise UsageError(f"{where}: '{name}' is not a {kind}")
    if getattr(param, "is_flag", False):
        return value
    return list(map(str, values)) if many else str(value)


def _note_show_config(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta["llama.show_config"] = value
    return value


def settings_as_toml() -> str:
    """Give every setting of the command that runs, and where each came from, for --config to read.

    What is not set is left out.
    """
    context = click.get_current_context()
    held = {name for name, value in context.params.items() if value not in (None, ())}
    lines = [line for name, line in _origins(context).items() if name in held]
    return "\n".join([f"[{context.info_name}]", *lines, ""])


def _origins(ctx: click.Context) -> dict[str, str]:
    """Give a line for each setting, by name."""
    files: Origins = ctx.meta["llama.origins"]
    words = {
        ParameterSource.COMMANDLINE: "command line",
        ParameterSource.ENVIRONMENT: "environment",
        ParameterSource.DEFAULT: "default",
    }
    lines = {}
    for name, value in sorted(ctx.params.items()):
        source = ctx.get_parameter_source(name)
        origin = files[name][1] if source is ParameterSource.DEFAULT_MAP else words.get(source, "")  # type: ignore[arg-type]
        lines[name] = f"{name.replace('_', '-')} = {_toml(value)}  # {origin}"
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps("" if value is None else str(value), ensure_ascii=False)


def stream_options(
    *,
    files: bool = True,
    lines: bool = True,
    jobs: bool = True,
    drops: bool = True,
    seed: bool = False,
    max_rejects: int | None = None,
    ranks: bool = False,
) -> Callable[[F], F]:
    """Add the options of a streaming command, and pass it `run`, opened and ended for it.

    Args:
        files: its arguments are FILEs of records.
        lines: it reads records as lines, some of which may be malformed: --max-rejects.
        jobs: it may use several processes; one that runs a model does not.
        drops: it may drop records, which --rejects then keeps.
        seed: something in it is random.
        max_rejects: malformed lines that are allowed by default; None is any number.
        ranks: torchrun may start it several times; only the first writes and speaks.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(**options: Any) -> Any:
            from llama_cli.stream.run import Run, Settings  # zstandard and orjson, only to run
            from llama_cli.training.place import rank_and_size

            ctx = click.get_current_context()
            inputs = inputs_or_stdin(ctx, options.pop("files")) if files else ()
            written = {name: options[name] for name in WRITTEN if options.get(name)}
            _apart({"output": STDOUT, **written}, [*inputs, *_also_read(options)])
            config = {name: _plain(value) for name, value in sorted(options.items())}
            names = (*STREAM, "quiet", "verbose", *(["seed"] if seed else []))
            stream = {name: options.pop(name) for name in names if name in options}
            if stream["output"] == STDOUT:
                stream["output"] = None
            if ranks and rank_and_size(os.environ)[0]:
                stream |= {"output": None, "report": None, "quiet": True}
            with Run(Settings(ctx.info_name or "", inputs=inputs, config=config, **stream)) as run:
                return function(run=run, **options)

        allowed = _max_rejects(max_rejects)
        wanted = ((files, FILES), (True, OUT), (jobs, JOBS), (seed, SEED), (drops, REJECTS))
        for has, option in reversed((*wanted, (lines, allowed), (True, REPORT), (True, FLUSH))):
            wrapped = option(wrapped) if has else wrapped
        return wrapped  # type: ignore[return-value]

    return decorate


def _also_read(options: Mapping[str, Any]) -> Iterator[str]:
    """Give what is read beside the FILEs of records, such as --data."""
    for name in READ:
        value = options.get(name) or ()
        yield from map(str, value if isinstance(value, tuple) else (value,))


def _apart(written: Mapping[str, Path], inputs: Iterable[str]) -> None:
    """Refuse two outputs in one file, and anything but -o over an input.

    Raises:
        UsageError: one would be lost.
    """
    taken: dict[str, str] = {}
    read = set(map(os.path.realpath, inputs))
    for name, path in written.items():
        option, file = f"--{name.replace('_', '-')}", os.path.realpath(path)
        if path == STDOUT:
            file = "stdout"  # a report comes after all records, so it may
        elif (path.exists() and not path.is_file()) or _is_descriptor(path):
            continue
        if file in taken and (path != STDOUT or name != "report"):
            raise UsageError(f"{taken[file]} and {option} would both write {path}")
        if name != "output" and file in read:
            raise UsageError(f"{option} would replace the input {path}")
        taken[file] = option


def _is_descriptor(path: Path) -> bool:
    return path.parent in {Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd")}


def inputs_or_stdin(ctx: click.Context, files: tuple[str, ...]) -> tuple[str, ...]:
    """Give the FILEs, or stdin; at a terminal without any, show the help and end with 2."""
    if not files and sys.stdin.isatty():
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
    return files or ("-",)


def show(run: Run, records: Sequence[Record], table: str) -> None:
    """Write records, and a table of them on stderr for people; a terminal gets the table alone."""
    if run.output is None and sys.stdout.isatty():
        click.echo(table)
        return
    run.write(records)
    if not run.quiet:
        tell(table)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _max_rejects(default: int | None) -> Callable[[F], F]:
    return click.option(
        "--max-rejects",
        type=click.IntRange(0),
        default=default,
        show_default=default is not None,
        metavar="N",
        help="End with 3 past N malformed lines.",
    )


FILES = click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=paths)
OUT = click.option(
    "-o", "--output", type=OUTPUT, help="Write here, not to stdout; .zst and .gz compress."
)
JOBS = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes; 0 is one a core. The output does not depend on it.",
)
SEED = click.option(
    "--seed",
    type=SEEDS,
    default=0,
    show_default=True,
    help="Seed of all that is random.",
)
REJECTS = click.option(
    "--rejects", type=OUTPUT, help="Keep dropped records here, each with its step and reason."
)
REPORT = click.option("--report", type=OUTPUT, help="Write counts and costs here as JSON.")
FLUSH = click.option("--line-buffered", is_flag=True, help="Flush stdout after each record.")
