"""The options of completing: which token is taken, where it ends, and what the model runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from llama_cli.commands._model import pick_device
from llama_cli.commands._options import Real
from llama_cli.errors import NotReadyError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

RUNNING = (
    click.option(
        "--dtype",
        type=click.Choice(["fp32", "bf16", "fp16"]),
        help="Compute in this.  [default: as the model is kept]",
    ),
    click.option(
        "--quantize",
        type=click.Choice(["int8"]),
        help="Keep the matrices in eight bits: a quarter of fp32's memory; on a CPU, quicker.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),  # past some thousands the system gives no more, and we crash
        metavar="N",
        help="Threads of a CPU.  [default: one a core]",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="The same bits whatever --threads, on a CPU: in fp32, unless --quantize.",
    ),
)

COMPLETING = (
    click.option(
        "--max-tokens",
        type=click.IntRange(0),
        default=256,
        show_default=True,
        help="Longest completion, in tokens.",
    ),
    click.option(
        "--temperature",
        type=Real(0),
        default=0.8,
        show_default=True,
        help="0 always takes the most likely token.",
    ),
    click.option(
        "--top-k",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Draw among so many of the likeliest tokens; 0 is any number.",
    ),
    click.option(
        "--top-p",
        type=Real(0, 1),
        default=0.95,
        show_default=True,
        help="Draw among the likeliest tokens that hold this much probability.",
    ),
    click.option(
        "--min-p",
        type=Real(0, 1),
        default=0.0,
        show_default=True,
        help="Draw no token that is less than so many times as likely as the likeliest.",
    ),
    click.option(
        "--stop", multiple=True, metavar="TEXT", help="End before this text. May be repeated."
    ),
    click.option(
        "--num-samples",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Completions of each prompt.",
    ),
    click.option(
        "--logprobs",
        type=click.IntRange(0, 1000),
        metavar="K",
        help="Tell the K likeliest tokens at each place, and their logarithms.",
    ),
    click.option(
        "--echo",
        is_flag=True,
        help="Begin each completion with its prompt, tokens and logarithms too.",
    ),
)


def running_options(function: F) -> F:
    """Add --dtype, --quantize, --threads and --deterministic."""
    for option in reversed(RUNNING):
        function = option(function)
    return function


def completing_options(function: F) -> F:
    """Add what `inference.rows.Settings` holds."""
    for option in reversed(COMPLETING):
        function = option(function)
    return function


@dataclass(frozen=True, slots=True)
class How:
    """What a model runs on, and in."""

    device: str
    dtype: str | None
    quantize: bool
    deterministic: bool
    threads: int | None


def set_up(
    command: str,
    device: str,
    dtype: str | None,
    quantize: str | None,
    threads: int | None,
    deterministic: bool,
) -> How:
    """Choose the device, and see that the other options go with it.

    Raises:
        UsageError: the options do not go together.
        NotReadyError: there is no such device, or it cannot be deterministic.
    """
    if dtype and quantize:
        raise UsageError("--quantize is a dtype of its own; leave out --dtype")
    if deterministic and dtype not in (None, "fp32"):
        raise UsageError(f"--deterministic is in fp32 or int8, not in {dtype}")
    if device == "auto" and deterministic:
        device = "cpu"
    place = pick_device(device, command)
    if place != "cpu" and deterministic:
        raise NotReadyError("--deterministic is for a CPU", hint=f"llama {command} --device cpu")
    dtype = "fp32" if deterministic and not quantize else dtype
    return How(place, dtype, bool(quantize), deterministic, threads)
