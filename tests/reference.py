"""Write the command-line reference from the click objects; docs/reference/cli.md calls it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from llama_cli import errors
from llama_cli.cli import COMMANDS, main

ENDINGS = {
    0: "done",
    2: "usage or configuration",
    130: "Ctrl-C",
    141: "the reader of a pipe went away",
    143: "SIGTERM",
}
ENVIRONMENT = {
    "LLAMA_<COMMAND>_<OPTION>": "sets any option: `LLAMA_FILTER_JOBS=4`",
    "LLAMA_TRAIN_ATTENTION": "as above, and the attention of `eval` and `generate` too",
    "LLAMA_TRACEBACK": "1 shows the traceback of an unexpected error",
    "LLAMA_BUILD_CUDA": "0 or 1: never or always build the CUDA extension when installing",
    "CUDA_HOME": "where `bin/nvcc` is looked for when installing; otherwise on PATH",
    "NO_COLOR, FORCE_COLOR": "turn the colour of fatal errors off or on; `--color` beats both",
    "TERM": "`dumb` is a terminal without colour and without a changing line",
    "XDG_CONFIG_HOME": "where `llama/config.toml` is looked for, `~/.config` otherwise",
    "TMPDIR": "where `mix` spools a pipe",
    "WORLD_SIZE": "set by torchrun; `train` refuses more than 1 so far",
    "OMP_WAIT_POLICY": "`train` makes it `PASSIVE` unless it is set: waiting threads sleep",
    "CUBLAS_WORKSPACE_CONFIG": "`train` makes it `:4096:8` unless it is set: sums in one order",
}


def pages() -> str:
    """Return the whole reference as Markdown."""
    return "\n".join(_lines())


def found(name: str) -> click.Command:
    """Import one command."""
    assert isinstance(main, click.Group)
    command = main.get_command(click.Context(main, info_name="llama"), name)
    assert command is not None
    return command


def _lines() -> Iterator[str]:
    yield _help("llama", main, None)
    context = click.Context(main, info_name="llama")
    for name in COMMANDS:
        yield _help(f"llama {name}", found(name), context)
    yield "## Exit codes\n\n| code | meaning |\n|---:|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in sorted(_codes().items()))
    yield "\n## Environment\n\n| variable | meaning |\n|---|---|"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    yield ""


def _help(title: str, command: click.Command, parent: click.Context | None) -> str:
    name = title.split()[-1]
    settings = {
        "help_option_names": ["-h", "--help"],
        "terminal_width": 96,
        "max_content_width": 96,
    }
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"


def _codes() -> dict[int, str]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    named = {
        kind.exit_code: (kind.__doc__ or "").split("\n")[0].rstrip(".").lower()
        for kind in kinds
        if issubclass(kind, errors.LlamaError) and kind.exit_code not in {1, 2}
    }
    return {1: "the work could not be done", **named, **ENDINGS}
