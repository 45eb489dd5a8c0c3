"""`llama carbon`: what to count, and how to show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from llama_cli.carbon.estimate import INTENSITY, PUE, WATTS, estimate
from llama_cli.commands._options import Command, Real
from llama_cli.errors import UsageError


@click.command("carbon", cls=Command)
@click.option("--gpu-hours", type=Real(0), metavar="HOURS", help="Count these hours.")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    help="Count a training run: its log.jsonl, or its directory.",
)
@click.option("--paper", is_flag=True, help="Print Table 15, computed beside published.")
@click.option(
    "--power",
    type=Real(0, min_open=True),
    metavar="WATTS",
    help="Power of one GPU, or of one CPU core.  [default: "
    f"{WATTS:g} for --gpu-hours; with --log, by the device's name]",
)
@click.option(
    "--pue",
    type=Real(1),
    default=PUE,
    show_default=True,
    help="Energy of the data center over that of its computers.",
)
@click.option(
    "--intensity",
    type=Real(0),
    default=INTENSITY,
    show_default=True,
    metavar="KG",
    help="Carbon intensity of the electricity, in kg CO2e/kWh; the default is the US average.",
)
@click.option("--json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    gpu_hours: float | None,
    log: Path | None,
    paper: bool,
    power: float | None,
    pue: float,
    intensity: float,
    json: bool,
    **_: bool,
) -> None:
    """Count energy and CO2 as the paper does.

    Section 6 multiplies the hours by the power of a GPU at its design limit, the overhead of
    the data center, and the carbon intensity of the electricity:

    \b
      Wh = GPU-hours x watts x PUE          tCO2eq = MWh x 0.385

    \b
      llama carbon --gpu-hours 1022362
      llama carbon --log runs/first
      llama carbon --paper
    """
    if (gpu_hours is not None) + (log is not None) + paper != 1:
        raise UsageError(
            "give one of --gpu-hours, --log and --paper", hint="llama carbon --gpu-hours 1022362"
        )
    if paper:
        text, record = _paper(ctx)
    elif log is not None:
        text, record = _log(log, power, pue, intensity)
    else:
        text, record = _hours(gpu_hours or 0.0, power or WATTS, pue, intensity)
    if json:
        import orjson  # only to run

        text = orjson.dumps(record).decode()
    click.echo(text)


def _hours(
    hours: float, watts: float, pue: float, intensity: float
) -> tuple[str, Mapping[str, Any]]:
    from llama_cli.carbon.words import describe

    found = estimate(hours, watts=watts, pue=pue, intensity=intensity)
    return describe(found), found.as_json()


def _log(
    path: Path, watts: float | None, pue: float, intensity: float
) -> tuple[str, Mapping[str, Any]]:
    from llama_cli.carbon.log import footprint, read_log
    from llama_cli.carbon.words import describe_log

    found = footprint(read_log(path), watts=watts, pue=pue, intensity=intensity)
    return describe_log(found), found.as_json()


def _paper(ctx: click.Context) -> tuple[str, Mapping[str, Any]]:
    from llama_cli.carbon import paper

    for name in ("power", "pue", "intensity"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"--paper takes the paper's own figures, not --{name}")
    return paper.table(), paper.as_json()
