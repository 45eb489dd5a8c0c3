"""`llama generate`: prompts in, completions out, or text as it is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._completing import How, completing_options, running_options, set_up
from llama_cli.commands._export import EXPORTED
from llama_cli.commands._export import export as write_model
from llama_cli.commands._model import (
    find_source,
    load_engine,
    model_options,
    open_template,
    read_ahead,
)
from llama_cli.commands._options import Command, inputs_or_stdin, stream_options
from llama_cli.commands._serve import Served, serving_options
from llama_cli.commands._together import leads, open_shared, processes
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.inference.engine import Engine
    from llama_cli.inference.prompts import Call, Written
    from llama_cli.inference.rows import Request, Settings
    from llama_cli.model.formats import Kind
    from llama_cli.model.formats.source import Source
    from llama_cli.records import Completion
    from llama_cli.stream.run import Run
    from llama_cli.tokenizer.template import Template

EXPORT = "llama generate --model runs/first --export hf OUT"
AHEAD = 128  # prompts read before any is completed; ours


@click.command("generate", cls=Command)
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=paths)
@click.option("--prompt", multiple=True, metavar="TEXT", help="Complete this, and read nothing.")
@model_options
@running_options
@completing_options
@click.option(
    "--format",
    type=click.Choice(["jsonl", "text"]),
    help="[default: text on a terminal, jsonl elsewhere]",
)
@click.option("--timings", is_flag=True, help="Add to each record how long it took.")
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
@serving_options
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
    dtype: str | None,
    quantize: str | None,
    threads: int | None,
    deterministic: bool,
    format: str | None,
    timings: bool,
    export: tuple[Kind, str] | None,
    shards: int | None,
    num_samples: int,
    served: Served | None,
    **asked: Any,
) -> None:
    """Complete prompts.

    Reads Prompts (JSON lines with `prompt`, and perhaps `id`), Documents, lines of OpenAI's
    batches, or plain lines from FILEs or stdin, and writes Completions in the same order, with
    what ended each: eos, stop or length; to a line of a batch, an answer as OpenAI's. On a
    terminal the text appears as it is made. In fp32 and int8 on a CPU the same prompt, id and
    seed give the same completion, whatever is completed beside it.

    \b
      echo 'def main(' | llama generate --model runs/first
      llama generate prompts.jsonl --temperature 0 -o completions.jsonl
      llama generate --prompt 'Once upon a time' --stop . --seed 7
      llama generate --prompt 'Once upon a time' --num-samples 3 --top-k 40 --min-p 0.05
      llama generate --model Llama-2-7b-hf --quantize int8 batch.jsonl -o answers.jsonl
      llama generate --model runs/first --export hf for-transformers
      torchrun --nproc-per-node 8 -m llama_cli generate --model llama-65b prompts.jsonl
      llama generate --model runs/first --serve 8000
    """
    _check(prompt, files, asked["stop"])
    if export or shards:
        if not export or prompt or files or served or run.output:
            raise UsageError("--export stands alone, and --shards with it", hint=EXPORT)
        write_model(run, model, export[0], Path(export[1]), shards=shards)
        return
    if served and (prompt or files or format or timings or run.output):
        raise UsageError("--serve stands alone, without FILEs, --prompt, --format, --timings or -o")
    first = leads()
    run.inputs = () if prompt or served else inputs_or_stdin(ctx, files)
    door = served.open() if served and first else None

    if model:
        read_ahead(model)

    from llama_cli.inference.rows import Settings

    settings = Settings(seed=run.seed, samples=num_samples, **asked)
    how = set_up(run.settings.command, device, dtype, quantize, threads, deterministic)
    source = find_source(run, model)
    engine = _engine(ctx, run, source, how, time.monotonic if timings else None)
    template = open_template(source.directory)
    if door:
        door.serve(run, engine, settings, template, model=source.directory, batch=batch)
        return
    calls = _calls(run, engine, prompt, settings, template)
    ahead = 1 if run.settings.line_buffered else max(AHEAD, batch)
    on_terminal = run.output is None and sys.stdout.isatty()
    if (format or ("text" if on_terminal else "jsonl")) == "jsonl":
        run.write(_answers(run, engine, calls, batch=batch, ahead=ahead))
    elif on_terminal:
        _stream(run, engine, calls)
    else:
        requests = _told(run, engine, _requests(calls))
        _write_text(run, engine.answer(requests, batch=batch, ahead=ahead), echo=settings.echo)


def _check(prompts: tuple[str, ...], files: tuple[str, ...], stops: tuple[str, ...]) -> None:
    if prompts and files:
        raise UsageError("give FILEs or --prompt, not both")
    if "" in stops:
        raise UsageError("--stop '' would end every completion at once")
    if not all(map(_is_text, (*prompts, *stops))):
        raise UsageError("--prompt and --stop take UTF-8 text")


def _engine(
    ctx: click.Context, run: Run, source: Source, how: How, clock: Callable[[], float] | None
) -> Engine:
    if processes() > 1:
        return open_shared(ctx, source, how, clock)
    return load_engine(
        run,
        source,
        how.device,
        dtype=how.dtype,
        quantize=how.quantize,
        deterministic=how.deterministic,
        threads=how.threads,
        clock=clock,
    )


def _is_text(argument: str) -> bool:
    """Tell whether Python could decode the bytes of an argument; it keeps others as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _calls(
    run: Run, engine: Engine, prompts: tuple[str, ...], settings: Settings, template: Template
) -> Iterator[Call]:
    from llama_cli.inference.openai import read_call
    from llama_cli.inference.prompts import asked, numbered
    from llama_cli.records import Prompt

    if prompts:
        run.counts.read = len(prompts)
        return numbered(asked(Prompt("", text), settings) for text in prompts)
    read = partial(read_call, settings=settings, tokenizer=engine.tokenizer, template=template)
    return numbered(run.read(read))


def _answers(
    run: Run, engine: Engine, calls: Iterable[Call], *, batch: int, ahead: int
) -> Iterator[Written]:
    from llama_cli.inference.prompts import answers

    return answers(
        calls, lambda asked: engine.answer(_told(run, engine, asked), batch=batch, ahead=ahead)
    )


def _requests(calls: Iterable[Call]) -> Iterator[Request]:
    """Give what is to be completed, where text is written: a refusal has none."""
    return (request for call in calls if not call.refused for request in call.requests)


def _told(run: Run, engine: Engine, requests: Iterable[Request]) -> Iterator[Request]:
    """Pass requests on, and tell of those that are not as usual."""
    from llama_cli.stream.run import NAMED

    odd = 0
    for request in requests:
        why = _unusual(engine, request)
        odd += bool(why)
        if why and (odd <= NAMED or run.verbose):
            run.say(f"prompt '{request.prompt.id}' {why}")
        yield request
    if odd > NAMED and not run.verbose:
        run.say(f"{odd:,} such prompts in all (-v names each)")


def _unusual(engine: Engine, request: Request) -> str:
    if not request.prompt.prompt and request.ids is None:
        return "is empty: what follows begins a text"
    return "" if engine.fits(request) else f"leaves no room in {engine.context:,} tokens"


def _write_text(run: Run, completions: Iterable[Completion], *, echo: bool) -> None:
    from llama_cli.stream.writer import open_output

    with open_output(run.output, line_buffered=run.settings.line_buffered) as output:
        for each in run.count(completions):
            output.write(f"{'' if echo else each.prompt}{each.completion}\n".encode())


def _stream(run: Run, engine: Engine, calls: Iterable[Call]) -> None:
    from llama_cli.stream.writer import open_output

    with open_output(None) as output:
        for request in _told(run, engine, _requests(calls)):
            for sample in range(request.settings.samples):
                run.counts.written += 1
                output.write(request.prompt.prompt.encode())
                for piece in engine.stream(request, sample):
                    output.write(piece.encode())
                output.write(b"\n")
