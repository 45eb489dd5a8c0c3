"""Prompts from lines: JSON objects where a line is one, plain text otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from llama_cli.records import Prompt


def read_prompt(line: bytes) -> Prompt:
    """Read a Prompt (or a Document) if the line is a JSON object, else take it as it is.

    >>> read_prompt(b'{"id": 7, "prompt": "Once"}'), read_prompt(b"{once")
    (Prompt(id='7', prompt='Once'), Prompt(id='', prompt='{once'))

    Raises:
        ValueError: the object has neither `prompt` nor `text`, or the line is not UTF-8.
    """
    if line.lstrip().startswith(b"{"):
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError:
            pass  # text that happens to begin with a brace
        else:
            return Prompt.from_json(line)
    try:
        return Prompt("", line.rstrip(b"\r").decode())
    except UnicodeDecodeError:
        raise ValueError("neither JSON nor UTF-8 text") from None


def numbered(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Give prompts without an id their index, from 0.

    >>> [prompt.id for prompt in numbered([Prompt("a", ""), Prompt("", "")])]
    ['a', '1']
    """
    for index, prompt in enumerate(prompts):
        yield prompt if prompt.id else Prompt(str(index), prompt.prompt)
