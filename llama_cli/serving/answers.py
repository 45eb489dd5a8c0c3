"""Answers in OpenAI's form: whole, or in parts as they come (server-sent events).

https://platform.openai.com/docs/api-reference/completions and .../chat-streaming. A part never
ends within a character, nor with what may have to be cut off again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from llama_cli.inference.openai import (
    ENDS,
    answer,
    chat_logprobs,
    choice,
    text_logprobs,
    usage,
)
from llama_cli.records import Completion
from llama_cli.serving.calls import Asked
from llama_cli.serving.worker import News
from llama_cli.tokenizer.bpe import Tokenizer

DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """Write one part."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def whole(
    asked: Asked,
    completions: Sequence[Completion],
    *,
    name: str,
    model: str,
    created: int,
    tokenizer: Tokenizer,
) -> bytes:
    """Write the body of an answer that is not streamed."""
    choices = [
        choice(index, each, asked.request(index), chat=asked.chat, tokenizer=tokenizer)
        for index, each in enumerate(completions)
    ]
    used = usage(asked.read, sum(row.from_start for row in asked.rows))
    return orjson.dumps(answer(name, model, choices, used, chat=asked.chat, created=created))


@dataclass(slots=True)
class _Row:
    """What was written of one row."""

    made: int = 0  # tokens
    told: int = 0  # characters of the tokens that were listed
    begun: bool = False
    held: str = ""  # white space that may be the end of a message


class Stream:
    """Turns news of rows into the parts of one answer."""

    def __init__(
        self, asked: Asked, *, name: str, model: str, created: int, tokenizer: Tokenizer
    ) -> None:
        kind = "chat.completion.chunk" if asked.chat else "text_completion"
        self.head = {"id": name, "object": kind, "created": created, "model": model}
        self.asked, self.tokenizer = asked, tokenizer
        self.rows = [_Row() for _ in asked.rows]

    def begin(self) -> Iterator[bytes]:
        """Say whose the messages will be."""
        if self.asked.chat:
            for index in range(len(self.rows)):
                yield self._part(index, {"delta": {"role": "assistant", "content": ""}})

    def add(self, news: News) -> Iterator[bytes]:
        """Write what is new of a row, if anything is."""
        row, chat = self.rows[news.row], self.asked.chat
        told = self._told(row, news)
        row.made = news.made
        text = _trimmed(row, news.text) if chat else news.text
        if text or told or news.finish:
            delta = {"content": text} if text else {}
            said = {"delta": delta} if chat else {"text": text}
            yield self._part(news.row, said, told, ENDS.get(news.finish))

    def end(self) -> Iterator[bytes]:
        """Say what it took, if that was asked, and that this is all."""
        if self.asked.tells_usage:
            used = usage(self.asked.read, sum(row.made for row in self.rows))
            yield event({**self.head, "choices": [], "usage": used})
        yield DONE

    def _part(
        self,
        index: int,
        said: dict[str, Any],
        told: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        one = {"index": index, **said, "logprobs": told, "finish_reason": finish}
        used = {"usage": None} if self.asked.tells_usage else {}
        return event({**self.head, "choices": [one], **used})

    def _told(self, row: _Row, news: News) -> dict[str, Any] | None:
        if not news.tokens:
            return None
        request = self.asked.request(news.row)
        # an echo of ids begins with one of which nothing says how likely it was
        echoed = request.settings.echo and row.made == 0
        first = (request.ids or ())[:1] if echoed else ()
        nothing = [None for _ in first]
        parts = [*first, *news.tokens], [*nothing, *news.logprobs], [*nothing, *news.top]
        if self.asked.chat:
            return chat_logprobs(*parts, self.tokenizer)
        listed = text_logprobs(*parts, self.tokenizer, row.told)
        row.told += sum(map(len, listed["tokens"]))
        return listed


def _trimmed(row: _Row, new: str) -> str:
    """Drop white space around a message, as a whole answer does."""
    text = row.held + new
    text = text if row.begun else text.lstrip()
    shown = text.rstrip()
    row.begun, row.held = row.begun or bool(shown), text[len(shown) :]
    return shown
