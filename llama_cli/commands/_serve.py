"""`llama generate --serve`: its options, and the server they ask for."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llama_cli.commands._options import Real
from llama_cli.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import socket

    from llama_cli.inference.engine import Engine
    from llama_cli.inference.rows import Settings
    from llama_cli.serving.limits import Limits
    from llama_cli.stream.run import Run
    from llama_cli.tokenizer.template import Template

F = TypeVar("F", bound=Callable[..., Any])

HERE = "127.0.0.1"
ADDRESS = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):)?(?P<port>\d{1,5})")
EXAMPLE = "llama generate --model runs/first --serve 8000"
INSTALL = "pip install 'llama[serve]'"

OPTIONS = (
    click.option(
        "--serve",
        metavar="[HOST:]PORT",
        help="Answer requests over HTTP in the form of OpenAI's API, until SIGTERM; see "
        "docs/serving.md.  [HOST default: 127.0.0.1]",
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Tokens, one a line, of which --serve wants one from each client.",
    ),
    click.option(
        "--max-body",
        type=click.IntRange(1),
        metavar="BYTES",
        help="Largest request that --serve takes.  [default: 1048576]",
    ),
    click.option(
        "--max-prompt",
        type=click.IntRange(1),
        metavar="TOKENS",
        help="Longest prompt that --serve takes.  [default: the model's context]",
    ),
    click.option(
        "--max-waiting",
        type=click.IntRange(0),
        metavar="N",
        help="Completions that may wait while --batch others run.  [default: 256]",
    ),
    click.option(
        "--request-timeout",
        type=Real(0, min_open=True),
        metavar="SECONDS",
        help="Longest that --serve works on a request.  [default: 600]",
    ),
    click.option(
        "--client-timeout",
        type=Real(0, min_open=True),
        metavar="SECONDS",
        help="Longest that --serve waits for a client to send or to read.  [default: 30]",
    ),
)
LIMITS = {  # of `serving.limits`, by option
    "max_body": "body",
    "max_prompt": "prompt",
    "max_waiting": "waiting",
    "request_timeout": "seconds",
    "client_timeout": "patience",
}


@dataclass(frozen=True, slots=True)
class Served:
    """What --serve was asked with."""

    host: str
    port: int
    token_file: Path | None
    limits: dict[str, Any]

    def open(self) -> Door:
        """Take the address, before a model is loaded for nothing.

        Raises:
            NotReadyError: the libraries of the server are not installed.
            LlamaError: the address, or the file of tokens, cannot be had.
        """
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ModuleNotFoundError as error:
            raise NotReadyError(f"--serve needs {error.name}", hint=INSTALL) from None
        from llama_cli.serving.address import bind
        from llama_cli.serving.bearer import read_tokens
        from llama_cli.serving.limits import Limits

        tokens = read_tokens(self.token_file) if self.token_file else ()
        bound = bind(self.host, self.port, anywhere=bool(tokens))
        return Door(bound, tokens, Limits(**self.limits))


@dataclass(frozen=True, slots=True)
class Door:
    """An address that was taken, and who may come in."""

    bound: socket.socket
    tokens: tuple[str, ...]
    limits: Limits

    def serve(
        self,
        run: Run,
        engine: Engine,
        settings: Settings,
        template: Template,
        *,
        model: Path,
        batch: int,
    ) -> None:
        """Answer until a signal comes."""
        from llama_cli.serving.calls import Reader
        from llama_cli.serving.completing import Service
        from llama_cli.serving.server import Server
        from llama_cli.serving.worker import Worker

        reader = Reader(
            model=model_name(model),
            tokenizer=engine.tokenizer,
            template=template,
            settings=settings,
            context=engine.context,
            limits=self.limits,
            places=batch + self.limits.waiting,
            clock=time.monotonic,
        )
        worker = Worker(engine, size=batch, clock=time.monotonic, say=run.say)
        service = Service(reader, worker, clock=time.time)
        host, port = self.bound.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        Server(
            service,
            self.bound,
            tokens=self.tokens,
            say=run.say,
            ready=lambda: run.say(f"serving {reader.model} on {url}"),
        ).run()
        metrics = service.metrics
        run.counts.read = metrics.requests.total()
        run.counts.written = sum(n for (_, status), n in metrics.requests.items() if status == 200)
        run.note(prompt_tokens=metrics.read, completion_tokens=worker.made)


def model_name(directory: Path) -> str:
    """Name a model by its directory; one of a run, by that too.

    >>> model_name(Path("/runs/first/checkpoint-0000300")), model_name(Path("/m/llama-7b"))
    ('first/checkpoint-0000300', 'llama-7b')
    """
    whole = directory.resolve()
    return "/".join(whole.parts[-2 if whole.name.startswith("checkpoint-") else -1 :])


def serving_options(function: F) -> F:
    """Add --serve and what goes with it, and hand them over as `served`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        address, token_file = options.pop("serve"), options.pop("token_file")
        found = {name: options.pop(name) for name in LIMITS}
        limits = {LIMITS[name]: value for name, value in found.items() if value is not None}
        if address is None and (token_file or limits):
            option = "--token-file" if token_file else _option(found)
            raise UsageError(f"{option} is for --serve", hint=EXAMPLE)
        served = None if address is None else Served(*_read(address), token_file, limits)
        return function(*args, served=served, **options)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _option(found: dict[str, Any]) -> str:
    name = next(name for name, value in found.items() if value is not None)
    return f"--{name.replace('_', '-')}"


def _read(address: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(address)
    if not match or int(match["port"]) > 65535:
        raise UsageError(f"--serve takes HOST:PORT or PORT, not '{address}'", hint=EXAMPLE)
    return (match["host"] or HERE).strip("[]"), int(match["port"])
