"""The `llama` group: eight commands in the order data flows, and how the process ends.

Each command's module is imported only when it runs, and heavy libraries only inside it, so
that `llama --help` answers at once. click would turn a closed pipe and Ctrl-C into exit 1;
both are caught below it, and the process ends by the signal itself: 141, 130, 143.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from llama_cli import __version__
from llama_cli.config import nearest
from llama_cli.errors import Elsewhere, LlamaError, UsageError, one_line
from llama_cli.stream.progress import coloured, tell

COMMANDS = {
    "fetch": "Turn crawls, source trees and files into documents.",
    "filter": "Clean documents, and drop those that break the rules for their source.",
    "tokenize": "Turn documents into token ids, or learn a tokenizer.",
    "mix": "Interleave sources by weight into training sequences.",
    "train": "Train a model; run the same command again to resume.",
    "eval": "Score a model beside the paper's figures.",
    "generate": "Complete prompts.",
    "carbon": "Count energy and CO2 as the paper does.",
}

HELP = """Make a language model yourself, from raw crawl to evaluated checkpoint.

Eight tools that read and write JSON lines, so that they pipe together:

\b
  llama fetch github src/ | llama filter | llama tokenize | llama mix -o mixed
  llama train --size 3m --run runs/first
  echo "def main(" | llama generate --model runs/first

`llama COMMAND --help` explains each, with examples.
"""


KINDS = {  # click's names of what an option takes
    "integer range": "a whole number",
    "integer": "a whole number",
    "float range": "a number",
    "float": "a number",
}
AGAIN = 0.02  # seconds; ours: a signal waits so long for a module to load, and then again


class Terminated(BaseException):
    """SIGTERM came; unwinding removes half-written files before the process ends by it."""


class Llama(click.Group):
    """Import a command when it is run, and end the process as Unix tools do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order data flows."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"llama_cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or suggest the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = nearest(args[0], COMMANDS)
            raise UsageError(f"no command '{args[0]}'", hint=f"llama {near or '--help'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program, whatever streams it was given."""
        _mend_streams()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the group's own options; --help and --version print here."""
        with _ending():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        signal.signal(signal.SIGTERM, _end)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # __main__.py's, while loading
            signal.signal(signal.SIGINT, _end)
        # Waiting threads sleep instead of spinning: with a busy neighbour on two cores a
        # training step takes 1 s, not 10. torch reads it when a command loads it.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with _ending(ctx):
            value = super().invoke(ctx)
            sys.stdout.flush()  # a short output meets a closed pipe only here
        return value


@contextmanager
def _ending(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn how the work ended into what the shell should see."""
    name = "llama"
    try:
        try:
            yield
        finally:
            name = _name(ctx)
    except BrokenPipeError:
        _die(signal.SIGPIPE)
    except KeyboardInterrupt:
        _die(signal.SIGINT)
    except Terminated:
        _die(signal.SIGTERM)
    except Elsewhere as error:
        raise click.exceptions.Exit(error.exit_code) from None
    except LlamaError as error:
        _say(name, error)
        raise click.exceptions.Exit(error.exit_code) from None
    except click.UsageError as error:
        _say(name, UsageError(_misuse(error), hint=f"{name} --help"))
        raise click.exceptions.Exit(UsageError.exit_code) from None
    except OSError as error:  # a full disk, a directory without permission
        where = "<stdout>" if error.filename is None else error.filename or "''"
        _say(name, LlamaError(f"{where}: {error.strerror or error}"))
        _drop_stdout()
        raise click.exceptions.Exit(1) from None
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except Exception as error:  # ours to mend; still no traceback for a user
        if os.environ.get("LLAMA_TRACEBACK"):
            raise
        _report_bug(name, error)
        _drop_stdout()
        raise click.exceptions.Exit(1) from None


def _name(ctx: click.Context | None) -> str:
    """Name what ran as it was called: `llama eval grade`."""
    words = (ctx.invoked_subcommand, ctx.meta.get("llama.word")) if ctx else ()
    return " ".join(["llama", *filter(None, words)])


def _mend_streams() -> None:
    """Take the numbers of standard streams that are closed, so that no other file gets them.

    To use such a stdin or stdout is then an error with words; words without a stderr are lost.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _misuse(error: click.UsageError) -> str:
    """Say in our way what click refuses, and where it was said if not on the command line."""
    message = error.format_message().rstrip(".").replace(". (", " (")
    for kind, wanted in KINDS.items():
        message = message.replace(f"is not a valid {kind}", f"is not {wanted}")
    return f"{message[:1].lower()}{message[1:]}{_origin(error)}"


def _origin(error: click.UsageError) -> str:
    param, ctx = getattr(error, "param", None), error.ctx
    if param is None or ctx is None:
        return ""
    source = ctx.get_parameter_source(param.name)
    if source is ParameterSource.ENVIRONMENT:
        return f" ({ctx.auto_envvar_prefix}_{param.name.upper()})"
    if source is ParameterSource.DEFAULT_MAP:
        return f" ({ctx.meta['llama.origins'][param.name][1]})"
    return ""


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind, so that half-written files go; while a module loads, as soon as it has.

    What loads torch or numpy may swallow an exception, or leave a module half loaded that fails
    later. So the signal comes again, to whoever handles it then. A second one ends at once.
    """
    if not _loading(frame):
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        _die(signal.Signals(number))
    signal.signal(signal.SIGALRM, partial(_again, number))
    signal.setitimer(signal.ITIMER_REAL, AGAIN)


def _again(asked: int, number: int, frame: FrameType | None) -> None:
    signal.raise_signal(asked)


def _loading(frame: FrameType | None) -> bool:
    """Tell whether a module is being loaded: Python's loader is among what runs."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _say(name: str, error: LlamaError) -> None:
    colour = coloured()
    shown = click.style(f"{name}:", fg="red", bold=True) if colour else f"{name}:"
    with suppress(BrokenPipeError):  # what happened decides the exit code, heard or not
        tell(f"{shown} {one_line(str(error))}")
        if error.hint:
            tell(f"  try: {one_line(error.hint)}")


def _report_bug(name: str, error: Exception) -> None:
    message = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "LLAMA_TRACEBACK=1 llama …, and report it"
    _say(name, LlamaError(f"a bug of ours: {message}", hint=hint))


def _die(number: signal.Signals) -> NoReturn:
    """End by the signal itself, so that the shell sees 128 + its number."""
    _drop_stdout()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # a signal that is blocked


def _drop_stdout() -> None:
    """Let Python's flush at exit succeed; else it fails again, and exits 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _show_version(ctx: click.Context, verbose: bool) -> None:
    click.echo(f"llama {__version__}")
    if verbose:
        from llama_cli.commands._version import details

        for line in details():
            click.echo(line)
    ctx.exit()


@click.group(
    cls=Llama,
    help=HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LLAMA"},
)
@click.option("-V", "--version", is_flag=True, help="Print the version; with -v, what runs it.")
@click.option("-v", "--verbose", is_flag=True, help="Add detail to --version.")
@click.pass_context
def main(ctx: click.Context, version: bool, verbose: bool) -> None:
    """Hold the commands; the text users see is HELP."""
    if version:
        _show_version(ctx, verbose)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
