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

if TYPE_CHECKING:
    from llama_cli.stream.run import Run


@click.command("answer", cls=Command)
@answering_options
@stream_options(jobs=False, drops=False, max_rejects=0, ranks=True)
def command(run: Run, **options: Any) -> None:
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
    """
    from llama_cli.evaluation.models import read_request

    refuse_shared_stdin(run)
    with open_model(run, Asked(**options)) as model:
        responses = model(run.read(read_request))
        if model.first:
            run.write(responses)
        else:
            deque(responses, maxlen=0)
