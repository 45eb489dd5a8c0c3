"""Responses as marks, one a row. No model is needed, and no file of a benchmark."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import groupby
from typing import Any

import orjson

from llama_cli.errors import LlamaError
from llama_cli.evaluation.request import Graded, Request, Response
from llama_cli.evaluation.task import Mark, Task, Tools
from llama_cli.evaluation.tasks import TASKS


def grade(responses: Iterable[Response], tools: Tools | None = None) -> Iterator[Graded]:
    """Grade each response as its task says, in order.

    Raises:
        LlamaError: a response is not one to its request.
    """
    tools = tools or Tools()
    for name, part in groupby(responses, key=lambda response: response.request.task):
        if name not in TASKS:
            raise LlamaError(f"no task '{name}'; there are {', '.join(TASKS)}")
        yield from _graded(TASKS[name], part, tools)


def _graded(task: Task, responses: Iterable[Response], tools: Tools) -> Iterator[Graded]:
    waiting: deque[Response] = deque()  # grading may read ahead

    def checked() -> Iterator[Response]:
        for response in responses:
            _check(response)
            waiting.append(response)
            yield response

    for mark in task.kind.grade(checked(), tools):
        yield _row(waiting.popleft(), mark)


def _check(response: Response) -> None:
    request = response.request
    if request.kind == "score":
        wanted, found, what = len(request.pairs), len(response.logprobs), "likelihoods"
    else:
        wanted, found, what = request.samples, len(response.completions), "completions"
    if wanted != found:
        raise LlamaError(f"{request.task} {request.id}: {found} {what}, where {wanted} were asked")
    if not all(isinstance(value, (int, float)) and value == value for value in response.logprobs):
        raise LlamaError(f"{request.task} {request.id}: a likelihood that is no number")
    if not all(isinstance(text, str) for text in response.completions):
        raise LlamaError(f"{request.task} {request.id}: a completion that is no text")


def _row(response: Response, mark: Mark) -> Graded:
    request = response.request
    meta: dict[str, Any] = {**request.meta, "prompt": fingerprint(request), "seed": request.seed}
    if response.bos is not None:
        meta["bos"] = response.bos
    if request.kind == "complete":
        meta |= {"samples": request.samples, "temperature": request.temperature}
    if response.truncated:
        meta["truncated"] = True
    return Graded(
        task=request.task,
        id=request.id,
        values=mark.values,
        answer=mark.answer,
        gold=request.gold,
        meta={**meta, **mark.meta},
        model=response.model,
    )


def fingerprint(request: Request) -> str:
    """Name what a model was given, in 16 digits: two that are the same were asked the same."""
    asked = [request.kind, list(request.pairs), request.prompt, list(request.stop)]
    return blake2b(orjson.dumps(asked), digest_size=8).hexdigest()
