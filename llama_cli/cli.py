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
from types import FrameType
from typing import Any, NoReturn

import click

from llama_cli import __version__
from llama_cli.config import nearest
from llama_cli.errors import LlamaError
from llama_cli.stream.progress import coloured

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
            click.echo(f"llama: no command '{args[0]}'", err=True)
            click.echo(f"  try: llama {near or '--help'}", err=True)
            ctx.exit(2)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and turn how it ended into what the shell should see."""
        signal.signal(signal.SIGTERM, _terminate)
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()  # a short output meets a closed pipe only here
        except BrokenPipeError:
            _die(signal.SIGPIPE)
        except KeyboardInterrupt:
            _die(signal.SIGINT)
        except Terminated:
            _die(signal.SIGTERM)
        except LlamaError as error:
            _say(ctx, error)
            ctx.exit(error.exit_code)
        except OSError as error:  # a full disk, a directory without permission
            _say(ctx, LlamaError(f"{error.filename or '<stdout>'}: {error.strerror or error}"))
            _drop_stdout()
            ctx.exit(1)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:  # ours to mend; still no traceback for a user
            _report_bug(ctx, error)
            _drop_stdout()
            ctx.exit(1)
        return value


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _say(ctx: click.Context, error: LlamaError) -> None:
    name = f"llama {ctx.invoked_subcommand or ''}".strip() + ":"
    colour = coloured()
    shown = click.style(name, fg="red", bold=True) if colour else name
    click.echo(f"{shown} {error}", err=True, color=colour)
    if error.hint:
        click.echo(f"  try: {error.hint}", err=True)


def _report_bug(ctx: click.Context, error: Exception) -> None:
    if os.environ.get("LLAMA_TRACEBACK"):
        raise error
    message = " ".join(f"{type(error).__name__}: {error}".split())
    _say(
        ctx,
        LlamaError(f"a bug of ours: {message}", hint="LLAMA_TRACEBACK=1 llama …, and report it"),
    )


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
