"""The options of commands that run a model, and the engine they ask for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llama_cli.errors import LlamaError, NotReadyError, UsageError

if TYPE_CHECKING:
    from llama_cli.inference.engine import Engine
    from llama_cli.model.dtypes import DType
    from llama_cli.model.formats.source import Source
    from llama_cli.stream.run import Run
    from llama_cli.tokenizer.bpe import Tokenizer
    from llama_cli.tokenizer.template import Template

F = TypeVar("F", bound=Callable[..., Any])

RUNS = Path("runs")
TRAIN = "llama train --size 3m --run runs/first"
ASKED = 1 << 17  # bytes that Linux reads ahead when it is asked, at least
DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg", "/dev/kfd")  # of GPUs; WSL's, AMD's
DTYPES: Mapping[str, DType] = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}  # as files name them
DEVICE = re.compile(r"cpu|cuda(?::\d+)?")


DEVICE_OPTION = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="cpu, cuda or cuda:N; auto takes a GPU if there is one.",
)


def model_options(function: F) -> F:
    """Add --model, --device and --batch."""
    for option in (
        click.option(
            "--batch",
            type=click.IntRange(1),
            default=16,
            show_default=True,
            help="Rows that go through the model together. The results do not depend on it.",
        ),
        DEVICE_OPTION,
        click.option(
            "--model",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="A checkpoint, a run that has one, or a model in Meta's or Hugging Face's "
            "layout.  [default: the newest under ./runs]",
        ),
    ):
        function = option(function)
    return function


def open_engine(run: Run, model: Path | None, device: str) -> Engine:
    """Load the model and its tokenizer; say on stderr which, where it was not asked for by name.

    Raises:
        NotReadyError: there is no such model, or no such device.
        LlamaError: the tokenizer beside the model is another's.
    """
    return load_engine(run, find_source(run, model), pick_device(device, run.settings.command))


def load_engine(
    run: Run,
    source: Source,
    device: str,
    *,
    dtype: str | None = None,
    quantize: bool = False,
    deterministic: bool = False,
    threads: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Engine:
    """Load a model that was found, as it is kept or in another dtype.

    Raises:
        NotReadyError: it is damaged.
        LlamaError: the tokenizer beside the model is another's.
    """
    from llama_cli.inference.backend import open_network
    from llama_cli.inference.engine import Engine
    from llama_cli.kernels import host

    tokenizer = open_tokenizer(source)
    if device == "cpu" and (why := host.lacking()):
        run.say(f"processor kernel {why}; PyTorch runs the model, several times slower")
        run.say(f"  try: {why.hint}")
    network = open_network(
        source,
        device=device,
        dtype=kept_in(dtype),
        quantize=quantize,
        deterministic=deterministic,
        threads=threads,
        say=run.say,
    )
    try:
        return Engine(network, tokenizer, clock=clock)
    except ValueError as error:
        raise LlamaError(f"{source.directory}: {error}") from None


def kept_in(dtype: str | None) -> DType | None:
    """Give the files' name of --dtype; None is as the model is kept."""
    return DTYPES[dtype] if dtype else None


def find_source(run: Run, model: Path | None) -> Source:
    """Open the model that was asked for, or the newest; say which, if it is not named.

    Raises:
        NotReadyError: there is none, or it is damaged.
    """
    if model:
        read_ahead(model)
    from llama_cli.model.formats import open_source
    from llama_cli.model.weights import find_checkpoint

    directory = find_checkpoint(model) if model else newest_checkpoint(RUNS)
    read_ahead(directory)
    if model is None or run.verbose:
        run.say(f"the model is {directory}")
    run.note(model=str(directory))
    return open_source(directory)


@cache
def read_ahead(directory: Path) -> None:
    """Let the system read the weights, once, while other things begin, if there is memory."""
    Thread(target=_ask_for, args=(directory,), daemon=True).start()


def _weights(directory: Path) -> list[Path]:
    return [*directory.glob("*.safetensors"), *directory.glob("*.pth")]


def _ask_for(directory: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):  # whoever opens the files says what is wrong with them
        sizes = {path: path.stat().st_size for path in _weights(directory)}
        if sum(sizes.values()) > memory // 2:
            return
        for path, size in sizes.items():
            with path.open("rb") as file:
                for at in range(0, size, ASKED):  # of more it reads the beginning only
                    os.posix_fadvise(file.fileno(), at, ASKED, os.POSIX_FADV_WILLNEED)


def open_tokenizer(source: Source) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        NotReadyError: there is none.
        LlamaError: it is none of SentencePiece's.
    """
    from llama_cli.tokenizer.bpe import Tokenizer

    path = source.tokenizer
    if not source.is_ours and not path.is_file():
        raise NotReadyError(
            f"no tokenizer at {path}", hint=f"copy {path.name} of the model into {path.parent}"
        )
    return Tokenizer.load(path)


def open_template(directory: Path) -> Template:
    """Give the template that the run of a checkpoint was taught with, or ours.

    Raises:
        NotReadyError: it is damaged.
    """
    from llama_cli.tokenizer.template import TEMPLATE, Template

    for path in (directory / TEMPLATE, directory.parent / TEMPLATE):
        if path.is_file():
            try:
                return Template.from_json(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise NotReadyError(f"{path}: {error}", hint=f"rm {path}") from None
    return Template()


def newest_checkpoint(runs: Path) -> Path:
    """Find the whole checkpoint under `runs` that was written last.

    Raises:
        NotReadyError: there is none.
    """
    from llama_cli.model.weights import PARAMS, is_whole

    found = sorted(runs.rglob(PARAMS), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        hidden = any(part.startswith(".") for part in path.parent.parts)  # still being written
        if not hidden and is_whole(path.parent):
            return path.parent
    raise NotReadyError(f"no model under ./{runs}; name one with --model", hint=TRAIN)


def pick_device(name: str, command: str) -> str:
    """Name the device that "auto" means, and refuse one that is not here.

    Raises:
        UsageError: it is neither auto, cpu, cuda nor cuda:N.
        NotReadyError: there is no such GPU.
    """
    if name != "auto" and not DEVICE.fullmatch(name):
        raise UsageError(f"no device '{name}'; there are auto, cpu, cuda and cuda:N")
    here = 0 if name == "cpu" else _gpus()
    if name == "auto":
        return "cuda" if here else "cpu"
    if name != "cpu" and int(name[5:] or 0) >= here:
        missing = f"no {name} here, there are {here} from 0 on" if here else "no CUDA device here"
        raise NotReadyError(missing, hint=f"llama {command} --device cpu")
    return name


def _gpus() -> int:
    """Count the GPUs that PyTorch has; it is imported only where there may be some."""
    if not any(Path(each).exists() for each in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
