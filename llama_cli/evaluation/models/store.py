"""Answers kept in a directory, by what they depend on: model, tokenizer, token ids, sampling.

    DIR/9f0c…/about.json              which model this is
    DIR/9f0c…/HOST-4711-0.jsonl       what one process added, a line a group: {key: answer, …}

Each model has a directory of its own, and each process a file of its own there, to which it only
appends. So several processes share a cache without waiting for each other, and what is lost when
one of them is killed is the line it was writing, which is a group: it is whole or it is left out.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from llama_cli.errors import naming
from llama_cli.evaluation.models.answering import Answer

ABOUT = "about.json"
DIGEST = 16  # bytes of a key; ours


def digest(*parts: Any) -> str:
    """Name what some JSON says.

    >>> digest([1], "a") == digest([1], "a") != digest([1, "a"])
    True
    """
    told = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return blake2b(told, digest_size=DIGEST).hexdigest()


@dataclass(slots=True)
class Store:
    """The answers of one model, all in memory, and the file that new ones go to."""

    directory: Path
    answers: dict[str, Answer]
    _file: int | None = field(default=None, repr=False)

    @classmethod
    def open(cls, root: Path, about: Mapping[str, Any], say: Callable[[str], None]) -> Store:
        """Read what is known of the model that `about` identifies; `say` tells of torn lines.

        Raises:
            OSError: the directory cannot be made, or read.
        """
        directory = root / digest(about)
        with naming(str(directory)):
            directory.mkdir(parents=True, exist_ok=True)
            _write(directory / ABOUT, about)
        answers: dict[str, Answer] = {}
        for path in sorted(directory.glob("*.jsonl")):
            for line in _lines(path, say):
                answers |= line
        return cls(directory, answers)

    def add(self, new: Mapping[str, Answer]) -> None:
        """Keep the answers of a group.

        Raises:
            OSError: they cannot be written, as when the disk is full.
        """
        if self._file is None:
            self._file = self._create()
        line = orjson.dumps({key: each.as_json() for key, each in new.items()}) + b"\n"
        with naming(str(self.directory)):
            while line:
                line = line[os.write(self._file, line) :]
        self.answers |= new

    def close(self) -> None:
        """Part from the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _create(self) -> int:
        """Make a file that no other process has; numbers of processes come round."""
        for number in count():
            name = f"{socket.gethostname()}-{os.getpid()}-{number}.jsonl"
            try:
                with naming(str(self.directory)):
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
                    return os.open(self.directory / name, flags, 0o644)
            except FileExistsError:
                continue
        raise AssertionError("the numbers have no end")


def _write(path: Path, about: Mapping[str, Any]) -> None:
    """Say what the directory is for; the same bytes by every process, so that any may."""
    if not path.exists():
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)


def _lines(path: Path, say: Callable[[str], None]) -> Iterator[dict[str, Answer]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("torn")
                yield {key: Answer(**each) for key, each in orjson.loads(line).items()}
            except (ValueError, TypeError, AttributeError):
                say(f"{path}:{number}: left out, not a whole line: its process was stopped")
