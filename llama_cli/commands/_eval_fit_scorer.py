"""`llama eval fit-scorer`: scored texts to a scorer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._complete import paths
from llama_cli.commands._options import OUTPUT, Command, inputs_or_stdin
from llama_cli.stream.progress import tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cli.evaluation.scorers.rows import Scored


@click.command("fit-scorer", cls=Command)
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=paths)
@click.option("-o", "--output", type=OUTPUT, required=True, help="Write the scorer here.")
@click.option(
    "--attribute",
    default="toxicity",
    show_default=True,
    help="RealToxicityPrompts: learn this one of Perspective's scores.",
)
@click.pass_context
def command(
    ctx: click.Context,
    files: tuple[str, ...],
    output: Path,
    attribute: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Learn a scorer of toxicity or truth from texts that have been scored.

    Reads rows of RealToxicityPrompts, which have PerspectiveAPI's scores, rows that train
    TruthfulQA's judges, or lines {"text", "score"} with scores from 0 to 1. A fifth is held out,
    and how well the scorer agrees with it is said and kept in the file. What it measures is not
    what the paper's scorers measure, and stands under its own name.

    \b
      llama eval fit-scorer realtoxicityprompts/prompts.jsonl -o toxicity.safetensors
      llama eval fit-scorer truthfulqa/finetune_truth.jsonl -o truth.safetensors
      llama eval realtoxicityprompts_basic --scorer linear:toxicity.safetensors --data benchmarks/

    Memory grows by about 15 KB for each text.
    """
    from llama_cli.evaluation.scorers.fit import fit
    from llama_cli.evaluation.scorers.linear import save
    from llama_cli.evaluation.scorers.rows import read_scored
    from llama_cli.stream.writer import see_output

    see_output(output)
    rows: Sequence[Scored] = list(read_scored(inputs_or_stdin(ctx, files), attribute))
    model = fit(rows, name=f"linear:{output.name.partition('.')[0]}")
    save(model, output)
    if not quiet:
        tell(f"{model.name} learned from {model.fitted:,} texts; on others: {model.agreement}")
    if verbose:
        tell(f"{len(model.keys):,} features, mean score {model.bias:.3f}")
