"""`llama eval report`: scores beside the paper's figures, as tables and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_cli.commands._options import OUTPUT, Command, stream_options
from llama_cli.errors import LlamaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama_cli.evaluation.beside import Entry
    from llama_cli.stream.run import Run


@click.command("report", cls=Command)
@click.option("--markdown", type=OUTPUT, metavar="FILE", help="Write the tables as Markdown.")
@click.option("--json", type=OUTPUT, metavar="FILE", help="Write all cells as one JSON object.")
@click.option("--picture", type=OUTPUT, metavar="FILE", help="Draw them, as PNG.")
@stream_options(jobs=False, drops=False, max_rejects=0)
def command(run: Run, markdown: Path | None, json: Path | None, picture: Path | None) -> None:
    """Put scores beside the paper's figures, cell by cell.

    Reads the scores that `llama eval` writes, of one model or several, from FILEs or stdin. For
    each of the paper's tables: our value with its 95% interval, LLaMA from 7B to 65B, and the
    other models as the paper prints them. Below it says how each task was asked, and what differs
    from the paper's protocol. Scores the paper has not come last.

    \b
      llama eval report scores.jsonl
      llama eval report runs/*/scores.jsonl --markdown report.md --picture report.png
    """
    from llama_cli.evaluation.beside import place
    from llama_cli.evaluation.report_tables import as_text
    from llama_cli.records import Score
    from llama_cli.stream.writer import open_output

    if picture and picture.suffix != ".png":
        raise UsageError(f"a picture is written as .png, not {picture.suffix or picture.name}")
    entries = place(run.count(run.read(Score.from_json)))
    if not entries:
        raise LlamaError("no scores to report", hint="llama eval TASK --model DIR -o scores.jsonl")
    _write(entries, markdown, json, picture)
    with open_output(run.output) as output:
        output.write(as_text(entries).encode() + b"\n")


def _write(
    entries: Sequence[Entry], markdown: Path | None, json: Path | None, picture: Path | None
) -> None:
    """Make every file before the first is written."""
    import orjson

    from llama_cli.evaluation.report_picture import draw
    from llama_cli.evaluation.report_tables import as_json, as_markdown
    from llama_cli.stream.writer import open_output

    made = {}
    if markdown:
        made[markdown] = as_markdown(entries).encode()
    if json:
        made[json] = orjson.dumps(as_json(entries), option=orjson.OPT_INDENT_2) + b"\n"
    if picture:
        made[picture] = draw(entries)
    for path, content in made.items():
        with open_output(path) as output:
            output.write(content)
