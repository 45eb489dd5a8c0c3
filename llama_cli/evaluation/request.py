"""What passes between the stages of an evaluation, one JSON line a row.

    render ─▶ Request ─▶ score, complete ─▶ Response ─▶ grade ─▶ Graded ─▶ summarise ─▶ Score

A Request holds all that a model must be given, in text, and what grading needs beside the answer
(`gold`); a Response is its Request and what a model made of it. So grading needs no model and no
files of a benchmark, and anything that reads and writes JSON lines can be the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from llama_cli.evaluation.shapes import GRADED, META, REQUEST, RESPONSE, Shape, match
from llama_cli.records import parsed

Kind = Literal["score", "complete"]


@dataclass(frozen=True, slots=True)
class Request:
    """One row as a model is given it.

    Of kind "score", the likelihood of each of `pairs` (a context, and what continues it) is
    wanted; of kind "complete", `samples` continuations of `prompt`. `gold` and `meta` are the
    task's own: what is right, and what the row is counted under. `max_tokens` and `stop` end a
    continuation; temperature 0 is greedy.
    """

    task: str
    id: str
    kind: Kind
    gold: Any
    pairs: Sequence[tuple[str, str]] = ()
    prompt: str = ""
    stop: Sequence[str] = ()
    max_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, line: bytes) -> Request:
        """Read one line.

        Raises:
            ValueError: it is no request.
        """
        return _request(_known(line, cls, "request"))

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Response:
    """A Request and what a model made of it.

    `logprobs` and `greedy` have one entry a pair: the summed natural logarithm of the
    continuation's probability, and whether each of its tokens was the likeliest. `tokens` counts
    those of each continuation. `completions` has one text a sample. `model` names what answered,
    and `bos` tells whether it put its begin mark first. After an empty context a continuation may
    be longer than the model's context: it is scored in windows that follow each other.
    """

    request: Request
    model: str = ""
    logprobs: Sequence[float] = ()
    greedy: Sequence[bool] = ()
    tokens: Sequence[int] = ()
    completions: Sequence[str] = ()
    truncated: bool = False  # the context lost its beginning to fit
    bos: bool | None = None  # None: not known

    @classmethod
    def from_json(cls, line: bytes) -> Response:
        """Read one line.

        Raises:
            ValueError: it is no response.
        """
        row = _known(line, cls, "response")
        if not isinstance(row.get("request"), dict):
            raise ValueError("a response has its request")
        match(row, RESPONSE)
        return cls(**{**row, "request": _request(row["request"])})

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Graded:
    """What one row counts for.

    `values` has one for each of the task's metrics, 0 or 1 where the row is right or wrong. `meta`
    is that of its Request, to count by category; `answer` is what was taken as the model's.
    """

    task: str
    id: str
    values: Mapping[str, float]
    answer: Any = None
    gold: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""

    @classmethod
    def from_json(cls, line: bytes) -> Graded:
        """Read one line.

        Raises:
            ValueError: it is no graded row.
        """
        row = _known(line, cls, "graded row")
        if not {"task", "id", "values"} <= set(row):
            raise ValueError("a graded row has a task, an id and values")
        _match(row, GRADED)
        return cls(**row)

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(asdict(self))


def _request(row: Mapping[str, Any]) -> Request:
    try:
        request = Request(**row)
    except TypeError as error:
        raise ValueError(f"no request: {error}") from None
    if request.kind not in ("score", "complete"):
        raise ValueError(f"a request is to score or to complete, not to {request.kind}")
    _match(row, REQUEST)
    return request


def _match(row: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    match(row, shapes)
    match(row.get("meta", {}), META)


def _known(line: bytes, cls: type, what: str) -> dict[str, Any]:
    row = parsed(line)
    if not isinstance(row, dict):
        raise ValueError(f"a {what} is a JSON object, not {type(row).__name__}")
    names = tuple(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    if unknown := [name for name in row if name not in names]:
        raise ValueError(f"a {what} has no field '{unknown[0]}', but {', '.join(names)}")
    return row
