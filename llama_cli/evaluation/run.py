"""Rows through a model: encode, score in batches, and give one result a row, in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Protocol, TypeVar

from llama_cli.errors import LlamaError
from llama_cli.evaluation.ask import ask
from llama_cli.evaluation.data import Data
from llama_cli.evaluation.encode import encode_pair, fit_pair, windows
from llama_cli.evaluation.score import Accuracy, Answer, Length, Rate, Tally, pick
from llama_cli.evaluation.task import BitsPerByte, Choice, Question, Task
from llama_cli.inference.engine import Engine, Pair
from llama_cli.records import Document

T = TypeVar("T")

AHEAD = 8  # batches of rows read ahead, to put those of one length together; ours


class Result(Protocol):
    """What is known of one row."""

    def to_json(self) -> bytes:
        """Write one line, without its end."""


def evaluate(
    task: Task, data: Data, engine: Engine, *, batch: int, keep: Callable[[Result], None]
) -> Tally:
    """Score a task; `keep` is given the result of each row, in order."""
    if isinstance(task, Choice):
        accuracy = Accuracy(task)
        for answered in answer(task, ask(task, data.rows(task)), engine, batch=batch):
            accuracy.add(answered)
            keep(answered)
        return accuracy
    rate = Rate(task)
    for length in measure(task, data.documents(), engine, batch=batch):
        rate.add(length)
        keep(length)
    return rate


def answer(
    task: Choice, questions: Iterable[Question], engine: Engine, *, batch: int
) -> Iterator[Answer]:
    """Score every choice of each question, and pick one.

    Raises:
        LlamaError: a choice alone is longer than the model's context.
    """
    for ahead in _ahead(questions, batch):
        pairs = [_pairs(question, engine) for question in ahead]
        scores = iter(engine.loglikelihood([_fit(pair, engine) for pair in chain(*pairs)]))
        for question, own in zip(ahead, pairs, strict=True):
            likelihoods = list(islice(scores, len(own)))
            yield Answer(
                question=question,
                loglikelihoods=likelihoods,
                picked=pick(likelihoods, question.choices, task.normalize),
                truncated=any(pair != _fit(pair, engine) for pair in own),
            )


def measure(
    task: BitsPerByte, documents: Iterable[Document], engine: Engine, *, batch: int
) -> Iterator[Length]:
    """Give the code length of each document, from its begin mark to its last token."""
    for cut in _cut(documents, engine, batch * AHEAD):
        pairs = list(chain(*(own for _, own in cut)))
        scores = iter(engine.loglikelihood(pairs))
        for document, own in cut:
            yield Length(
                task=task.name,
                id=document.id,
                utf8_bytes=len(document.text.encode("utf-8", "surrogatepass")),
                tokens=sum(len(continuation) for _, continuation in own),
                bits=-math.fsum(islice(scores, len(own))) / math.log(2),
            )


def _cut(
    documents: Iterable[Document], engine: Engine, size: int
) -> Iterator[list[tuple[Document, list[Pair]]]]:
    """Cut documents into windows, and give them once they have `size` windows together."""
    ready: list[tuple[Document, list[Pair]]] = []
    held = 0
    for document in documents:
        own = list(windows(engine.tokenizer.encode(document.text), engine.context))
        ready.append((document, own))
        held += len(own)
        if held >= size:
            yield ready
            ready, held = [], 0
    if ready:
        yield ready


def _pairs(question: Question, engine: Engine) -> list[Pair]:
    return [encode_pair(engine.tokenizer, question.prompt, choice) for choice in question.choices]


def _fit(pair: Pair, engine: Engine) -> Pair:
    try:
        return fit_pair(pair, engine.context)
    except ValueError as error:
        raise LlamaError(f"this model cannot be asked: {error}") from None


def _ahead(items: Iterable[T], batch: int) -> Iterator[list[T]]:
    items = iter(items)
    while ahead := list(islice(items, batch * AHEAD)):
        yield ahead
