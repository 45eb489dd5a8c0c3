"""`llama generate`: prompts in, completions out, or text as it is made."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._export import EXPORTED
from llama_cli.commands._export import export as write_model
from llama_cli.commands._model import model_options, open_engine
from llama_cli.commands._options import Command, Real, inputs_or_stdin, stream_options
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.inference.engine import Engine, Settings
    from llama_cli.model.formats import Kind
    from llama_cli.records import Completion, Prompt
    from llama_cli.stream.run import Run

EXPORT = "llama generate --model runs/first --export hf OUT"
AHEAD = 128  # prompts read before any is completed; ours


@click.command("generate", cls=Command)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--prompt", multiple=True, metavar="TEXT", help="Complete this, and read nothing.")
@model_options
@click.option(
    "--max-tokens",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    help="Longest completion, in tokens.",
)
@click.option(
    "--temperature",
    type=Real(0),
    default=0.8,
    show_default=True,
    help="0 always takes the most likely token.",
)
@click.option(
    "--top-p",
    type=Real(0, 1),
    default=0.95,
    show_default=True,
    help="Draw among the likeliest tokens that hold this much probability.",
)
@click.option(
    "--stop", multiple=True, metavar="TEXT", help="End before this text. May be repeated."
)
@click.option(
    "--format",
    type=click.Choice(["jsonl", "text"]),
    help="[default: text on a terminal, jsonl elsewhere]",
)
@click.option(
    "--export",
    nargs=2,
    type=(click.Choice(EXPORTED), str),
    metavar="LAYOUT OUT",
    help="Write the model into a new directory OUT, and end: as Hugging Face keeps it (hf), as "
    "Meta does (meta), or as a checkpoint of ours (llama).",
)
@click.option(
    "--shards",
    type=click.IntRange(1),
    metavar="N",
    help="Files of --export meta, one for each GPU that shares the layers.  [default: 1]",
)
@stream_options(files=False, jobs=False, drops=False, seed=True)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: Run,
    files: tuple[str, ...],
    prompt: tuple[str, ...],
    model: Path | None,
    device: str,
    batch: int,
    max_tokens: int,
    temperature: float,
    top_p: float,
    stop: tuple[str, ...],
    format: str | None,
    export: tuple[Kind, str] | None,
    shards: int | None,
) -> None:
    """Complete prompts.

    Reads Prompts (JSON lines with `prompt`, and perhaps `id`), Documents, or plain lines from
    FILEs or stdin, and writes Completions in the same order, with what ended each: eos, stop
    or length. On a terminal the text appears as it is made. The same prompt, id and seed give
    the same completion in any batch.

    \b
      echo 'def main(' | llama generate --model runs/first
      llama generate prompts.jsonl --temperature 0 -o completions.jsonl
      llama generate --prompt 'Once upon a time' --stop . --seed 7
      llama generate --model Llama-2-7b-hf --prompt 'Once upon a time'
      llama generate --model runs/first --export hf for-transformers
    """
    if prompt and files:
        raise UsageError("give FILEs or --prompt, not both")
    if "" in stop:
        raise UsageError("--stop '' would end every completion at once")
    if not all(map(_is_text, (*prompt, *stop))):
        raise UsageError("--prompt and --stop take UTF-8 text")
    if export or shards:
        if not export or prompt or files:
            raise UsageError("--export stands alone, and --shards with it", hint=EXPORT)
        write_model(run, model, export[0], Path(export[1]), shards=shards)
        return
    run.inputs = () if prompt else inputs_or_stdin(ctx, files)

    from llama_cli.inference.engine import Settings
    from llama_cli.inference.prompts import numbered, read_prompt
    from llama_cli.records import Prompt

    engine = open_engine(run, model, device)
    settings = Settings(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=run.seed,
        stop=stop,
        batch=batch,
        ahead=1 if run.settings.line_buffered else max(AHEAD, batch),
    )
    run.counts.read = len(prompt)
    given = (Prompt("", text) for text in prompt) if prompt else run.read(read_prompt)
    prompts = _checked(run, engine, numbered(given))
    on_terminal = run.output is None and sys.stdout.isatty()
    if (format or ("text" if on_terminal else "jsonl")) == "jsonl":
        run.write(engine.generate(prompts, settings))
    elif on_terminal:
        _stream(run, engine, prompts, settings)
    else:
        _write_text(run, engine.generate(prompts, settings))


def _is_text(argument: str) -> bool:
    """Tell whether Python could decode the bytes of an argument; it keeps others as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _checked(run: Run, engine: Engine, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Pass prompts on, and tell of those that leave no room for a completion."""
    for prompt in prompts:
        if not engine.fits(prompt):
            run.say(f"prompt '{prompt.id}' leaves no room in {engine.context:,} tokens")
        yield prompt


def _write_text(run: Run, completions: Iterable[Completion]) -> None:
    from llama_cli.stream.writer import open_output

    with open_output(run.output, line_buffered=run.settings.line_buffered) as output:
        for each in run.count(completions):
            output.write(f"{each.prompt}{each.completion}\n".encode())


def _stream(run: Run, engine: Engine, prompts: Iterable[Prompt], settings: Settings) -> None:
    from llama_cli.stream.writer import open_output

    with open_output(None) as output:
        for prompt in run.count(prompts):
            output.write(prompt.prompt.encode())
            for piece in engine.stream(prompt, settings):
                output.write(piece.encode())
            output.write(b"\n")
