"""The command-line reference, from the click objects: docs/reference/cli.md calls `pages`.

python -m tests.reference DIR     writes the man pages, llama.1 and one for each command
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from llama_cli import __version__, errors
from llama_cli.cli import COMMANDS, main
from llama_cli.commands._options import Worded

ENDINGS = {
    0: "done",
    2: "usage or configuration",
    130: "Ctrl-C",
    141: "the reader of a pipe went away",
    143: "SIGTERM",
}
SLURM = (
    "SLURM_JOB_ID, SLURM_JOB_NUM_NODES, SLURM_NNODES, SLURM_NTASKS, SLURM_NODEID, SLURM_PROCID, "
    "SLURM_LOCALID, SLURM_JOB_NODELIST, SLURM_GPUS_ON_NODE, SLURM_STEP_ID, SLURM_STEP_NODELIST, "
    "SLURM_STEP_NUM_NODES, SLURM_STEP_NUM_TASKS"
)
ENVIRONMENT = {
    "LLAMA_<COMMAND>_<OPTION>": "sets any option: `LLAMA_FILTER_JOBS=4`",
    "LLAMA_TRAIN_ATTENTION": "as above, and the attention of `eval` and `generate` too",
    "LLAMA_CUDA_GRAPHS": "0: a GPU is told each step of a model kernel by kernel, not in graphs",
    "LLAMA_TRACEBACK": "1 shows the traceback of an unexpected error",
    "LLAMA_LAUNCHER": "set by `train` for the processes it starts: its own number",
    "LLAMA_BUILD_CUDA": "0 or 1: never or always build the CUDA extension when installing",
    "CUDA_HOME": "where `bin/nvcc` is looked for when installing; otherwise on PATH",
    "NO_COLOR, FORCE_COLOR": "turn the colour of fatal errors off or on; `--color` beats both",
    "TERM": "`dumb` is a terminal without colour and without a changing line",
    "XDG_CONFIG_HOME": "where `llama/config.toml` is looked for, `~/.config` otherwise",
    "TMPDIR": "where `mix` spools a pipe",
    "RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_RESTART_COUNT": (
        "set by torchrun, for each process of one run of `train`, `eval` or `generate`"
    ),
    SLURM: "which machine or process of a job this is, and where `train` meets the others",
    "CUDA_VISIBLE_DEVICES": "the GPUs that `train` sees; a task of Slurm's may see one alone",
    "TORCH_CPP_LOG_LEVEL": "made `ERROR` by `train` unless it is set: that a peer has gone is said",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "made 1 by `train` where it starts processes",
    "OMP_NUM_THREADS": "threads on a CPU where `--threads` does not say; otherwise one a core",
    "OMP_WAIT_POLICY": "made `PASSIVE` unless it is set: threads that wait for others sleep",
    "CUBLAS_WORKSPACE_CONFIG": "`train` makes it `:4096:8` unless it is set: sums in one order",
}


def pages() -> str:
    """Return the whole reference as Markdown."""
    return "\n".join(_lines())


def found(name: str) -> click.Command:
    """Import one command, or the one that a word after it means: "eval sandbox-check"."""
    assert isinstance(main, click.Group)
    first, _, word = name.partition(" ")
    command = main.get_command(click.Context(main, info_name="llama"), first)
    assert command is not None
    return command.word(word) if word and isinstance(command, Worded) else command


def names() -> list[str]:
    """List the commands, each before those that words after it mean."""
    return [each for name in COMMANDS for each in (name, *words(name))]


def words(name: str) -> list[str]:
    """List what the words after a command mean."""
    return [f"{name} {word}" for word in getattr(found(name), "words", ())]


def _lines() -> Iterator[str]:
    yield _help("llama", main, None)
    context = click.Context(main, info_name="llama")
    for name in names():
        yield _help(f"llama {name}", found(name), context)
    yield "## Exit codes\n\n| code | meaning |\n|---:|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in _codes().items())
    yield "\n## Environment\n\n| variable | meaning |\n|---|---|"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    yield ""


def man_pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the troff source of each man page."""
    context = click.Context(main, info_name="llama")
    summary = (main.help or "").split("\n")[0].rstrip(".")
    tables = f"Exit codes:\n{_listed(_codes())}\n\nEnvironment:\n{_listed(ENVIRONMENT)}"
    yield "llama.1", _man("llama", summary, f"{_text('llama', main, None)}\n\n{tables}")
    for name, said in COMMANDS.items():
        told = (_text(f"llama {each}", found(each), context) for each in (name, *words(name)))
        text = "\n\n".join(told)
        yield f"llama-{name}.1", _man(f"llama-{name}", said.rstrip("."), text)


def _man(name: str, summary: str, text: str) -> str:
    """Show the help as it is, under the heads that man(1) and apropos(1) look for."""
    title = f'.TH {name.upper()} 1 "" "llama {__version__}"'
    head = _troff(f"{name} - {summary}")
    return f"{title}\n.SH NAME\n{head}\n.SH DESCRIPTION\n.nf\n{_troff(text)}\n.fi\n"


def _troff(text: str) -> str:
    plain = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub("^(?=[.'])", r"\\&", plain, flags=re.MULTILINE)  # else they would be requests


def _listed(table: dict[int, str] | dict[str, str]) -> str:
    return "\n".join(f"  {name}  {meaning.replace('`', '')}" for name, meaning in table.items())


def _help(title: str, command: click.Command, parent: click.Context | None) -> str:
    return f"## {title}\n\n```\n{_text(title, command, parent)}\n```\n"


def _text(title: str, command: click.Command, parent: click.Context | None) -> str:
    name = title.removeprefix("llama ")
    settings = {
        "help_option_names": ["-h", "--help"],
        "terminal_width": 96,
        "max_content_width": 96,
    }
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return command.get_help(context)


def _codes() -> dict[int, str]:
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    named = {
        kind.exit_code: (kind.__doc__ or "").split("\n")[0].rstrip(".").lower()
        for kind in kinds
        if issubclass(kind, errors.LlamaError) and kind.exit_code not in {1, 2}
    }
    return dict(sorted({1: "the work could not be done", **named, **ENDINGS}.items()))


if __name__ == "__main__":
    for page, source in man_pages():
        (Path(sys.argv[1]) / page).write_text(source, encoding="utf-8")
