"""`--scorer`, an option of `llama eval` and `llama eval grade`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from llama_cli.evaluation.scorers import Scorer

WHAT = re.compile(r"(toxicity|truth|info)=(.*)", re.DOTALL)

SCORER = click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="[WHAT=]KIND:ARG",
    help="Measure toxicity, or WHAT (truth, info), by linear:FILE of fit-scorer, "
    "'command:PROGRAM ...' or perspective:KEYFILE, which ends on 31 December 2026 and gives no new "
    "keys. May be repeated.",
)


def opened(specs: tuple[str, ...], say: Callable[[str], object]) -> dict[str, Scorer]:
    """Open the scorers, by what they measure; `say` is told why one waits.

    Raises:
        UsageError: there is no such kind, or two measure the same.
    """
    from llama_cli.evaluation.scorers.choose import choose

    scorers: dict[str, Scorer] = {}
    for spec in specs:
        match = WHAT.fullmatch(spec)
        what, rest = match.groups() if match else ("toxicity", spec)
        if what in scorers:
            raise UsageError(f"two scorers of {what}")
        scorers[what] = choose(rest, say)
    return scorers
