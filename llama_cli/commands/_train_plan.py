"""`llama train --dry-run --gpus N`: the best layouts of a cluster, and one rank of the best run.

The plan (llama_cli.parallel) and the estimate (llama_cli.carbon) do not know each other; they are
put together here. Imports no torch until a layout is checked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from llama_cli.commands._options import Real
from llama_cli.commands._train_options import PAPER_GPU, Options, dry_run, planned
from llama_cli.errors import LlamaError, UsageError
from llama_cli.model.config import ModelConfig
from llama_cli.parallel.columns import beside, compare
from llama_cli.parallel.gpus import GPUS, Cluster, machines
from llama_cli.parallel.layout import Layout, Wish
from llama_cli.parallel.propose import Proposal, propose
from llama_cli.parallel.words import head
from llama_cli.training.settings import default_batch

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Where:
    """The options that say what to plan for, by name."""

    gpus: int | None
    gpu: str | None
    gpus_per_node: int | None
    network: float | None
    check: bool | None
    wish: Wish  # what other options settle of a layout


WHERE = ("gpus", "gpu", "gpus_per_node", "network", "check")
WISHES = tuple(field.name for field in fields(Wish))


def plan_options(function: F) -> F:
    """Add the options, and hand the command a `Where` of them."""

    @functools.wraps(function)
    def wrapped(**options: Any) -> Any:
        source = click.get_current_context().get_parameter_source
        settled = [name for name in WISHES if source(name) != ParameterSource.DEFAULT]
        wish = Wish(**{name: options[name] for name in settled})
        return function(
            where=Where(**{name: options.pop(name) for name in WHERE}, wish=wish), **options
        )

    found: Any = wrapped
    for option in OPTIONS:
        found = option(found)
    return found  # type: ignore[no-any-return]


OPTIONS = (
    click.option(
        "--check/--no-check",
        default=None,
        help="Run one rank of the best layout on tensors without memory, to count what it holds "
        "and sends; it takes half a minute.  [default: check]",
    ),
    click.option(
        "--network",
        type=Real(0, min_open=True),
        metavar="GBITS",
        help="Gb/s that a node sends and receives.  [default: NVIDIA's for the GPU]",
    ),
    click.option(
        "--gpus-per-node",
        type=click.IntRange(1),
        metavar="N",
        help="GPUs that NVLink joins.  [default: 8]",
    ),
    click.option(
        "--gpu", type=click.Choice(list(GPUS)), help=f"What they are.  [default: {PAPER_GPU}]"
    ),
    click.option(
        "--gpus",
        type=click.IntRange(1),
        metavar="N",
        help="With --dry-run: lay the model out on N GPUs; the best layouts, their memory, "
        "traffic, time and energy.",
    ),
)


def show(options: Options, where: Where) -> Iterator[str]:
    """Yield what `--dry-run` prints, each part as soon as it is known."""
    if where.gpus is None:
        refuse(where, "needs --gpus")
        yield dry_run(options)
        return
    if options.dtype == "fp32":
        raise UsageError("layouts are planned in bf16", hint="llama train --dry-run --dtype bf16")
    config, tokens = planned(options)
    cluster = machines(
        where.gpu or PAPER_GPU, where.gpus, node=where.gpus_per_node, network=where.network
    )
    batch = options.batch or default_batch(options.size, config.context)
    found = propose(config, cluster, batch=batch, size=options.size, wish=where.wish)
    yield head(options.size, config, tokens=tokens, batch=batch)
    yield "\n" + _table(cluster, found, tokens)
    given = f" --batch {options.batch}" if options.batch else ""
    yield f"\nthe first: llama train --size {options.size}{given} {found[0].layout.options}"
    if where.check is not False:
        yield "\n" + _checked(config, cluster, found[0].layout)


def refuse(where: Where, why: str = "is for --dry-run") -> None:
    """Refuse the options of a plan where none is made.

    Raises:
        UsageError: one is given.
    """
    given = next((name for name in WHERE if getattr(where, name) is not None), None)
    if given:
        name = given.replace("_", "-")
        raise UsageError(f"--{name} {why}", hint="llama train --dry-run --gpus 8")


def _table(cluster: Cluster, found: Sequence[Proposal], tokens: int) -> str:
    from llama_cli.carbon.estimate import estimate

    watts = cluster.gpu.watts
    energy = [estimate(each.gpu_hours(tokens), watts=watts) for each in found]
    pairs = [(one.mwh, one.tonnes) for one in energy]
    lines = compare(found, cluster, tokens=tokens, energy=pairs)
    return (
        f"{lines}\n  {watts:g} W a GPU, PUE {energy[0].pue:g}, {energy[0].intensity:g} kg CO2e/kWh"
    )


def _checked(config: ModelConfig, cluster: Cluster, best: Layout) -> str:
    start = time.monotonic()
    from llama_cli.training.rehearsal import beside_plan, rehearse  # torch

    once = replace(best, passes=1)
    try:
        counted = rehearse(config, once)
    except Exception as error:  # whatever a layout that does not run meets
        first = str(error).partition("\n")[0]
        raise LlamaError(
            f"one rank of {once} does not run: {type(error).__name__}: {first}",
            hint="llama train --dry-run --gpus 8 --no-check",
        ) from error
    return beside(
        f"checked: rank 0 of {best.gpus:,} ran one pass of the first on tensors without memory, "
        f"{time.monotonic() - start:.0f} s",
        beside_plan(config, once, cluster, counted),
    )
