"""What a benchmark is: where its rows are, what the model sees, and what counts as right.

A task is data; `run.py` does the work. Files are read in the format their authors publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

Row = Mapping[str, Any]
Normalize = Literal["none", "characters"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Pick the most likely of several continuations.

    `normalize` follows section 3 of the paper: the likelihood of a choice is divided by its
    number of characters, the space before it not counted.
    """

    name: str
    dataset: str  # the directory of the files
    files: tuple[str, ...]
    read: Callable[[Sequence[Path]], Iterator[Row]]
    split: str
    shots: int
    prompt: Callable[[Row], str]
    choices: Callable[[Row], Sequence[str]]
    gold: Callable[[Row], int]
    note: str  # what the paper leaves open, said with every result
    normalize: Normalize = "characters"
    reported: Mapping[str, float] = field(default_factory=dict)  # by model size, percent


@dataclass(frozen=True, slots=True)
class Question:
    """One row as the model sees it: each choice follows the prompt."""

    task: str
    id: str
    prompt: str
    choices: Sequence[str]
    gold: int

    def as_json(self) -> dict[str, Any]:
        """Name the fields, in order."""
        return {
            "task": self.task,
            "id": self.id,
            "prompt": self.prompt,
            "choices": list(self.choices),
            "gold": self.gold,
        }

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(self.as_json())


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """Measure how well held-out documents are predicted, whatever the tokenizer."""

    name: str
    note: str


Task = Choice | BitsPerByte
