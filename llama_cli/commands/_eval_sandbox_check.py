"""`llama eval sandbox-check`: attacks on each sandbox of this machine, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from llama_cli.errors import LlamaError


@click.command("sandbox-check")
@click.option("--unsafe", is_flag=True, help="Show too what is open without a sandbox.")
def command(unsafe: bool) -> None:
    """Try to break out of the sandboxes in which generated programs run.

    Each line of the table is an attack, each column a sandbox that works on this machine; the
    last lines say which of them is used. Takes some seconds for each, and does no harm where
    an attack succeeds. Ends with 1 if the sandbox that is used leaves anything open.

    \b
      llama eval sandbox-check
      llama eval sandbox-check --unsafe
    """
    from llama_cli.evaluation.sandbox.probes import check
    from llama_cli.evaluation.sandbox.tiers import UNSAFE, choose, tried

    reasons = dict(tried())
    chosen = choose(reasons, unsafe=unsafe)
    tiers = [*(tier for tier, reason in reasons.items() if not reason), *[UNSAFE][: int(unsafe)]]
    found = {tier: dict(check(tier)) for tier in tiers}
    click.echo("\n".join([*_table(found), "", *_notes(reasons, chosen)]))
    if left := [name for name, verdict in found[chosen].items() if verdict == "open"]:
        raise LlamaError(f"the {chosen} sandbox leaves open: {', '.join(left)}")


def _table(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    names = list(next(iter(found.values())))
    rows = [["attack", *found]]
    rows += [[name, *(verdicts[name] for verdicts in found.values())] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _notes(reasons: Mapping[str, str], chosen: str) -> Iterator[str]:
    yield from (f"{tier}: not here, {reason}" for tier, reason in reasons.items() if reason)
    yield f"used: {chosen}"
