"""The options of commands that let a model answer requests, and the model they ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._model import DEVICE_OPTION, find_source, load_engine, pick_device
from llama_cli.commands._together import processes
from llama_cli.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    from llama_cli.evaluation.models.answering import Answering, Backend
    from llama_cli.evaluation.models.store import Store
    from llama_cli.evaluation.render import Fit
    from llama_cli.parallel.mesh import Mesh
    from llama_cli.stream.run import Run

F = TypeVar("F", bound=Callable[..., Any])

SCHEMES = ("http://", "https://")
PROGRAM = "!"

OPTIONS = (
    click.option(
        "--model",
        metavar="DIR|URL|!CMD",
        shell_complete=paths,
        help="A checkpoint, a run that has one, or a model in Meta's or Hugging Face's layout; "
        "http://HOST:PORT/v1 of an OpenAI-compatible endpoint; or '!' and a program that reads "
        "Requests and writes Responses.  [default: the newest under ./runs]",
    ),
    click.option(
        "--model-name", default="", help="What the endpoint calls the model, if it has several."
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A file with the endpoint's token in its first line.",
    ),
    click.option(
        "--parallel",
        type=click.IntRange(1),
        default=8,
        show_default=True,
        help="Calls to the endpoint at a time.",
    ),
    click.option(
        "--timeout",
        type=click.IntRange(1),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="How long the endpoint may take for a call before it is made again.",
    ),
    click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Keep answers here, and take those that are there: a stopped run goes on.",
    ),
    DEVICE_OPTION,
    click.option(
        "--batch",
        type=click.IntRange(1),
        default=16,
        show_default=True,
        help="Completions that grow together. What is scored goes by tokens.",
    ),
    click.option(
        "--batch-tokens",
        type=click.IntRange(1),
        default=16_384,
        show_default=True,
        metavar="N",
        help="Tokens that are computed, and kept, together; what begins alike counts once.",
    ),
    click.option(
        "--bos/--no-bos",
        default=True,
        show_default=True,
        help="Begin each context with the begin mark, as in training.",
    ),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say of the model."""

    model: str | None
    model_name: str
    token_file: Path | None
    parallel: int
    timeout: int
    cache: Path | None
    device: str
    batch: int
    batch_tokens: int
    bos: bool


MODEL = tuple(each.name for each in fields(Asked))


def answering_options(function: F) -> F:
    """Add --model and what goes with it: the fields of `Asked`."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@contextmanager
def open_model(run: Run, asked: Asked) -> Iterator[Answering[Any]]:
    """Give the model; under torchrun each process answers its part, and the first has it all.

    Raises:
        NotReadyError: there is no such model, device or file.
        LlamaError: a process of the run has failed.
    """
    from llama_cli.evaluation.models.answering import Answering

    with ExitStack() as stack:
        mesh = stack.enter_context(_joined()) if processes() > 1 else None
        backend, about = _opened(run, asked, mesh)
        store = _store(run, asked, about()) if asked.cache else None
        if store:
            stack.callback(store.close)
        yield Answering(backend, store=store, mesh=mesh)


@contextmanager
def _joined() -> Iterator[Mesh]:
    from llama_cli.parallel.mesh import joined

    with joined("cpu") as mesh:  # what they tell each other are words, whatever computes
        yield mesh


def fit_of(model: Answering[Any]) -> Fit | None:
    """Tell what the context of a model has room for; nobody says of an endpoint or a program."""
    from llama_cli.evaluation.render import Fit

    engine = getattr(model.backend, "engine", None)
    if engine is None:
        return None
    return Fit(lambda text: len(engine.tokenizer.encode(text)), engine.context)


def refuse_shared_stdin(run: Run) -> None:
    """Let several processes read files only: what one takes from a pipe, the others lack.

    Raises:
        UsageError: stdin is to be read by several.
    """
    if processes() > 1 and "-" in run.inputs:
        raise UsageError("several processes cannot read one stdin; name a FILE")


def _store(run: Run, asked: Asked, about: dict[str, Any]) -> Store:
    from llama_cli.evaluation.models.store import Store

    assert asked.cache is not None
    return Store.open(asked.cache, about, run.say)


Opened = tuple["Backend[Any]", Callable[[], dict[str, Any]]]  # and what identifies it


def _opened(run: Run, asked: Asked, mesh: Mesh | None) -> Opened:
    name = asked.model or ""
    if name.startswith(SCHEMES):
        return _endpoint(run, asked, name)
    if name.startswith(PROGRAM):
        return _program(name.removeprefix(PROGRAM).strip())
    return _local(run, asked, mesh)


def _endpoint(run: Run, asked: Asked, url: str) -> Opened:
    from llama_cli.evaluation.models.openai import OpenAI

    model = OpenAI(
        url,
        asked.model_name,
        token=_token(asked.token_file),
        parallel=asked.parallel,
        timeout=asked.timeout,
        say=run.say,
    )
    run.note(model=model.name)
    return model, lambda: {"endpoint": model.url, "model": asked.model_name}


def _token(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise NotReadyError(f"no token at {path}", hint=f"put the token into {path}") from None
    if not lines:
        raise NotReadyError(f"{path}: no token in it", hint=f"put the token into {path}")
    return lines[0]


def _program(line: str) -> Opened:
    from llama_cli.evaluation.models.command import Command, files_of
    from llama_cli.model.manifest import Entry

    if not line:
        raise UsageError("no program after '!'", hint="llama eval answer --model '!python m.py'")
    files = {str(path): Entry.of(path).xxh3_128 for path in files_of(line)}
    return Command(line), lambda: {"command": line, "files": files}


def _local(run: Run, asked: Asked, mesh: Mesh | None) -> Opened:
    from llama_cli.evaluation.models.local import Local

    source = find_source(run, Path(asked.model) if asked.model else None)
    device = pick_device(asked.device, run.settings.command)
    if device == "cuda" and mesh:  # pragma: no cover (gpu)
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    engine = load_engine(run, source, device)
    model = Local(
        engine,
        name=str(source.directory),
        bos=asked.bos,
        batch=asked.batch,
        budget=asked.batch_tokens,
    )

    def about() -> dict[str, Any]:
        from llama_cli.evaluation.models.identity import weights_digest

        assert asked.cache is not None
        with mesh.first_alone() if mesh else ExitStack():
            weights = weights_digest(source, asked.cache, run.say)
        kind = device.partition(":")[0]
        return {"weights": weights, "tokenizer": engine.tokenizer.sha256, "device": kind}

    return model, about
