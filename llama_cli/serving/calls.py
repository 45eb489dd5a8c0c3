"""Bodies of requests: what they ask for, within what the server takes.

What would change an answer and is not done here is refused by its name (`inference.fields`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llama_cli.inference.fields import FieldError, check_fields
from llama_cli.inference.openai import requests_of
from llama_cli.inference.rows import Request, Row, Settings, rows_of
from llama_cli.serving.limits import LIKELIEST, STOP, STOPS, TOLD, Limits
from llama_cli.serving.refusal import Refused
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.template import Template


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for; of each of `requests` there are as many rows as samples."""

    requests: tuple[Request, ...]
    rows: tuple[Row, ...]
    chat: bool
    stream: bool
    tells_usage: bool  # in a part of its own, at the end of a stream

    @property
    def samples(self) -> int:
        """Count the completions of each prompt."""
        return self.requests[0].settings.samples

    @property
    def read(self) -> int:
        """Count the tokens of the prompts."""
        return sum(row.start for row in self.rows[:: self.samples])

    def request(self, row: int) -> Request:
        """Give what a row was asked by."""
        return self.requests[row // self.samples]


@dataclass(frozen=True, slots=True)
class Reader:
    """What is needed to read a body."""

    model: str  # its name
    tokenizer: Tokenizer
    template: Template
    settings: Settings  # what a body does not say
    context: int  # tokens
    limits: Limits
    places: int  # rows that may run and wait together
    clock: Callable[[], float]

    def read(self, raw: bytes, *, chat: bool) -> Asked:
        """Read a body.

        Raises:
            Refused: it is none, or asks for what there is not.
        """
        body = _object(raw)
        try:
            check_fields(body, chat=chat)
        except FieldError as error:
            raise Refused(400, str(error), param=error.field) from None
        self._check_model(body)
        stream, tells_usage = _streaming(body)
        try:
            requests = requests_of(
                body,
                chat=chat,
                settings=self.settings,
                tokenizer=self.tokenizer,
                template=self.template,
            )
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._check(requests)
        rows = tuple(
            row
            for request in requests
            for row in rows_of(request, self.tokenizer, self.context, self.clock)
        )
        said = next((body[name] for name in LENGTHS if body.get(name) is not None), None)
        for row in rows[:: requests[0].settings.samples]:
            self._check_length(row.start, said)
        _check_told(rows)
        return Asked(requests, rows, chat, stream, tells_usage)

    def _check_model(self, body: dict[str, Any]) -> None:
        name = body.get("model")
        if name not in (None, "", self.model):
            message = f"no model '{name}' here; there is '{self.model}'"
            raise Refused(404, message, code="model_not_found", param="model")

    def _check(self, requests: tuple[Request, ...]) -> None:
        settings = requests[0].settings
        count = len(requests) * settings.samples
        if count > self.places:
            raise Refused(400, f"{count:,} completions asked for, at most {self.places:,}")
        if (settings.logprobs or 0) > min(LIKELIEST, self.tokenizer.vocab_size):
            raise Refused(400, f"at most {LIKELIEST} logprobs", param="logprobs")
        if len(settings.stop) > STOPS or any(len(stop) > STOP for stop in settings.stop):
            message = f"at most {STOPS} stop strings, of at most {STOP} characters"
            raise Refused(400, message, param="stop")
        # what is longer in bytes than any such number of tokens need not be cut into tokens
        longest = self._most() * self.tokenizer.longest_piece
        for request in requests:
            if request.ids is None and len(request.prompt.prompt.encode()) > longest:
                raise self._too_long("a prompt")

    def _most(self) -> int:
        return min(self.context, self.limits.prompt or self.context)

    def _check_length(self, tokens: int, said: int | None) -> None:
        if tokens > self._most():
            raise self._too_long(f"a prompt of {tokens:,} tokens")
        if said is not None and tokens + said > self.context:
            message = (
                f"a prompt of {tokens:,} tokens and a completion of {said:,} do not fit the "
                f"context of {self.context:,}"
            )
            raise Refused(400, message, code="context_length_exceeded", param="max_tokens")

    def _too_long(self, what: str) -> Refused:
        message = f"{what} is longer than the {self._most():,} tokens taken here"
        return Refused(400, message, code="context_length_exceeded", param="prompt")


def _check_told(rows: Sequence[Row]) -> None:
    settings = rows[0].settings
    tokens = sum(row.end - (0 if settings.echo else row.start) for row in rows)
    if tokens * (settings.logprobs or 0) > TOLD:
        message = f"at most {TOLD:,} logprobs in all; {tokens * (settings.logprobs or 0):,} asked"
        raise Refused(400, message, param="logprobs")


LENGTHS = ("max_completion_tokens", "max_tokens")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object")
    return body


def _streaming(body: dict[str, Any]) -> tuple[bool, bool]:
    stream, options = body.get("stream") or False, body.get("stream_options")
    if not isinstance(stream, bool):
        raise Refused(400, "field 'stream' is neither true nor false", param="stream")
    if options is None:
        return stream, False
    if not stream or not isinstance(options, dict):
        message = "field 'stream_options' is an object, and goes with 'stream'"
        raise Refused(400, message, param="stream_options")
    return stream, options.get("include_usage") is True
