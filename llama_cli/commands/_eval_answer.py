"""`llama eval answer`: requests through a model to responses."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import click

from llama_cli.commands._answering import (
    Asked,
    answering_options,
    open_model,
    refuse_shared_stdin,
)
from llama_cli.commands._options import Command, stream_options
from llama_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama_cli.evaluation.models.answering import Answering
    from llama_cli.evaluation.request import Response
    from llama_cli.stream.run import Run


@click.command("answer", cls=Command)
@answering_options
@click.option(
    "--alone",
    type=click.IntRange(1),
    metavar="N",
    help="Score the first N rows again, each by itself, and say the largest difference.",
)
@stream_options(jobs=False, drops=False, max_rejects=0, ranks=True)
def command(run: Run, alone: int | None, **options: Any) -> None:
    """Let a model answer the requests of an evaluation.

    Reads Requests as JSON lines, each with pairs of texts to score or a prompt to complete, and
    writes Responses: each is its Request with the model's logprobs or completions.

    With --cache a stopped or killed run goes on where it was, but for one batch, when the same
    command is run again; the cache is in memory while it runs. Under torchrun, processes share
    the requests, and the first writes what one alone would.

    \b
      llama eval answer --model runs/first --cache cache/ requests.jsonl > responses.jsonl
      llama eval answer --model http://localhost:8000/v1 --model-name llama-7b requests.jsonl
      llama eval answer --model '!python mymodel.py' < requests.jsonl
      llama eval answer --model runs/first --alone 20 requests.jsonl > responses.jsonl
    """
    from llama_cli.evaluation.models import read_request

    refuse_shared_stdin(run)
    with open_model(run, Asked(**options)) as model:
        responses = model(run.read(read_request))
        if not model.first:
            deque(responses, maxlen=0)
        elif alone is None:
            run.write(responses)
        else:
            _compare(run, model, responses, alone)


def _compare(run: Run, model: Answering[Any], responses: Iterator[Response], rows: int) -> None:
    """Write the responses, and say how much the scores of some depend on the others."""
    if not hasattr(model.backend, "engine"):
        raise UsageError("--alone is for a model on this machine")
    from llama_cli.evaluation.models.alone import Alone
    from llama_cli.evaluation.models.local import Local

    assert isinstance(model.backend, Local)
    alone = Alone(rows)
    run.write(alone.watch(responses))
    largest = alone.largest(model.backend)
    run.note(alone={"rows": len(alone.scored), "largest_difference": largest})
    if alone.scored:
        run.say(f"{len(alone.scored):,} rows alone and together: at most {largest:.1e} nats apart")
    else:
        run.say("no row has texts to score, so none was scored alone")
