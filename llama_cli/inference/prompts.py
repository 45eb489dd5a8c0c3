"""What to complete, from lines: JSON objects where a line is one, plain text otherwise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import orjson

from llama_cli.inference.rows import Request, Settings
from llama_cli.records import Completion, Prompt
from llama_cli.tokenizer.bpe import Tokenizer


class Written(Protocol):
    """What is written for a line: a Completion, or an answer of another form."""

    def to_json(self) -> bytes:
        """Write one line, without its end."""


Answer = Callable[[list[Completion]], Written]


@dataclass(frozen=True, slots=True)
class Call:
    """What one line asks for, and how its completions are written if not as they are.

    One that is refused asks for a completion of no tokens, which keeps its place, and `answer` says
    why.
    """

    requests: tuple[Request, ...]
    answer: Answer | None = None
    refused: bool = False

    @property
    def completions(self) -> int:
        """Tell how many it asks for."""
        return sum(request.settings.samples for request in self.requests)


def read_prompt(line: bytes) -> Prompt:
    """Read a Prompt (or a Document) if the line is a JSON object, else take it as it is.

    >>> read_prompt(b'{"id": 7, "prompt": "Once"}'), read_prompt(b"{once")
    (Prompt(id='7', prompt='Once'), Prompt(id='', prompt='{once'))

    Raises:
        ValueError: the object has neither `prompt` nor `text`, or is cut, or the line is not UTF-8.
    """
    if as_object(line) is not None:
        return Prompt.from_json(line)
    try:
        return Prompt("", line.rstrip(b"\r").decode())
    except UnicodeDecodeError:
        raise ValueError("neither JSON nor UTF-8 text") from None


def as_object(line: bytes) -> dict[str, object] | None:
    """Give the JSON object that a line is, or None for text, which may begin with a brace.

    Raises:
        ValueError: it begins as an object with a name, and is none: a record that was cut.
    """
    begun = line.lstrip()
    if not begun.startswith(b"{"):
        return None
    try:
        found: dict[str, object] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if begun.startswith(b'{"'):
            raise ValueError(f"not a JSON object, though it begins as one: {error.msg}") from None
        return None
    return found


def asked(prompt: Prompt, settings: Settings) -> Call:
    """Ask for the completion of one prompt."""
    return Call((Request(prompt, settings),))


def refused(name: str, why: Written) -> Call:
    """Ask for nothing, and answer with `why`."""
    nothing = Request(Prompt(name, ""), Settings(max_tokens=0), ids=(Tokenizer.bos,))
    return Call((nothing,), lambda completions: why, refused=True)


def numbered(calls: Iterable[Call]) -> Iterator[Call]:
    """Give prompts without an id the index of their line among those not refused, from 0.

    >>> calls = [asked(Prompt(name, ""), Settings()) for name in ("a", "")]
    >>> [call.requests[0].prompt.id for call in numbered(calls)]
    ['a', '1']
    """
    index = 0
    for call in calls:
        named = [
            request if request.prompt.id else _named(request, str(index))
            for request in call.requests
        ]
        yield replace(call, requests=tuple(named))
        index += not call.refused


def _named(request: Request, name: str) -> Request:
    return replace(request, prompt=Prompt(name, request.prompt.prompt))


def answers(
    calls: Iterable[Call], complete: Callable[[Iterable[Request]], Iterator[Completion]]
) -> Iterator[Written]:
    """Complete what is asked for, and write each answer in its form; `complete` reads ahead."""
    under_way: deque[Call] = deque()

    def requests() -> Iterator[Request]:
        for call in calls:
            if call.requests:
                under_way.append(call)
            yield from call.requests

    completions = complete(requests())
    for first in completions:
        call = under_way.popleft()
        rest = islice(completions, call.completions - 1)
        if call.answer:
            yield call.answer([first, *rest])
        else:
            yield first
            yield from rest
