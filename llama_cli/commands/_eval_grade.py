"""`llama eval grade`: responses to marks, as JSON lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from llama_cli.commands._eval_scorers import SCORER, opened
from llama_cli.commands._options import Command, stream_options

if TYPE_CHECKING:
    from llama_cli.stream.run import Run


@click.command("grade", cls=Command)
@SCORER
@click.option(
    "--unsafe", is_flag=True, help="Where no sandbox works, run generated programs without one."
)
@stream_options(drops=False, max_rejects=0)
def command(run: Run, scorers: tuple[str, ...], unsafe: bool) -> None:
    """Mark responses as right or wrong.

    Reads Responses from FILEs or stdin and writes a mark for each, in order. It needs no model
    and no file of a benchmark, so the same responses can be graded again. Programs run in a
    sandbox, --jobs of them at a time.

    \b
      llama eval grade responses.jsonl -o graded.jsonl
      llama eval grade responses.jsonl --scorer linear:toxicity.safetensors -o graded.jsonl
      llama eval grade responses.jsonl | jq 'select(.values.accuracy == 0)'
    """
    from llama_cli.evaluation.grade import grade
    from llama_cli.evaluation.request import Response
    from llama_cli.evaluation.tools import open_tools

    jobs = run.jobs or os.cpu_count() or 1
    with open_tools(unsafe=unsafe, jobs=jobs, scorers=opened(scorers, run.say)) as tools:
        run.write(grade(run.read(Response.from_json), tools))
