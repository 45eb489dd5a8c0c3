"""What the fields of requests, responses and marks may hold; a wrong one is told by its line.

Any program can stand between two stages; what it writes is looked at where it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shape = tuple[str, Callable[[Any], bool]]  # what is wanted, in words, and whether a value is that


def match(row: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """See that each field of a row that is there is what it should be.

    Raises:
        ValueError: one is not.
    """
    for name, value in row.items():
        words, right = shapes.get(name, ANYTHING)
        if not right(value):
            raise ValueError(f"'{name}' is {words}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_known(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [str, str]


def _list_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


def _are_values(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, (int, float)) for v in value.values())


ANYTHING: Shape = ("anything", lambda value: True)
TEXT: Shape = ("a text", _is_text)
TEXTS: Shape = ("a list of texts", _list_of(_is_text))
WHOLE: Shape = ("a whole number", _is_whole)
COUNT: Shape = ("a whole number over 0", lambda value: _is_whole(value) and value > 0)
NUMBER: Shape = ("a number", _is_number)
OBJECT: Shape = ("an object", lambda value: isinstance(value, dict))
KNOWN: Shape = ("true, false or null", _is_known)

REQUEST: Mapping[str, Shape] = {
    "task": TEXT,
    "id": TEXT,
    "pairs": ("a list of pairs of a context and what continues it", _list_of(_is_pair)),
    "prompt": TEXT,
    "stop": TEXTS,
    "max_tokens": WHOLE,
    "temperature": NUMBER,
    "top_p": NUMBER,
    "samples": COUNT,
    "seed": WHOLE,
    "meta": OBJECT,
}
RESPONSE: Mapping[str, Shape] = {
    "model": TEXT,
    "logprobs": ("a list of numbers", _list_of(_is_number)),
    "greedy": ("a list of true and false", _list_of(lambda value: isinstance(value, bool))),
    "tokens": ("a list of whole numbers", _list_of(_is_whole)),
    "completions": TEXTS,
    "truncated": KNOWN,
    "bos": KNOWN,
}
GRADED: Mapping[str, Shape] = {
    "task": TEXT,
    "id": TEXT,
    "values": ("an object of numbers", _are_values),
    "meta": OBJECT,
    "model": TEXT,
}
META: Mapping[str, Shape] = {  # what is told with a result; a task may keep more there
    "shots": WHOLE,
    "asked_shots": WHOLE,
    "groups": TEXTS,
    "cut": WHOLE,
    "examples": TEXT,
    "prompt": TEXT,
    "seed": WHOLE,
    "bos": KNOWN,
    "samples": WHOLE,
    "temperature": NUMBER,
    "truncated": KNOWN,
    "tier": TEXT,
    "scorer": TEXT,
    "agreement": TEXT,
}
