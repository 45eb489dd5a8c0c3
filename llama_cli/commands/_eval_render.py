"""`llama eval render`: rows of benchmarks to requests, as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_cli.commands._eval_options import asked, asking_options
from llama_cli.commands._model import find_source, open_tokenizer
from llama_cli.commands._options import Command, stream_options

if TYPE_CHECKING:
    from llama_cli.evaluation.render import Fit
    from llama_cli.stream.run import Run


@click.command("render", cls=Command)
@asking_options
@click.option(
    "--fit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Leave out worked examples that the context of this model has no room for.",
)
@stream_options(files=False, jobs=False, drops=False, seed=True, max_rejects=0)
def command(run: Run, fit: Path | None, **asking: Any) -> None:
    """Write what a model is asked, one request a line.

    A request holds the texts to score or to complete, and the right answer for grading later. No
    model is needed.

    \b
      llama eval render piqa --data benchmarks/ --limit 3
      llama eval render nq_open --shots 64 --data benchmarks/ -o requests.jsonl.zst
      llama eval render mmlu --fit runs/7B --data benchmarks/ | llama eval answer --model runs/7B
    """
    wanted = asked(run, **asking)
    run.write(wanted.requests(open_fit(run, fit) if fit else None))


def open_fit(run: Run, model: Path) -> Fit:
    """Count tokens as a model does, without loading its weights."""
    from llama_cli.evaluation.render import Fit

    source = find_source(run, model)
    tokenizer = open_tokenizer(source)
    return Fit(lambda text: len(tokenizer.encode(text)), source.config.context)
