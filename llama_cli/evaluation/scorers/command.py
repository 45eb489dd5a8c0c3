"""Any program as a scorer: JSON lines in, JSON lines out.

    {"id": "0", "text": "You fool"}   on its stdin
    {"id": "0", "score": 0.91}        on its stdout, in any order

So PerspectiveAPI's successors, a classifier in another environment, or a judge behind somebody
else's API take ten lines of a script, and no code here. The program runs once for all texts; what
it writes to stderr is the user's to see.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from llama_cli.errors import LlamaError, NotReadyError


@dataclass(frozen=True, slots=True)
class Program:
    """A command line, split as a shell does; no shell runs it."""

    line: str

    @property
    def name(self) -> str:
        """Name the program, and the script it runs."""
        words = [Path(word).name for word in self._words()]
        script = next((word for word in words[1:] if not word.startswith("-")), None)
        return f"command:{words[0]}" + (f":{script}" if script else "")

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Run the program on all texts.

        Raises:
            NotReadyError: there is no such program.
            LlamaError: it failed, or gave no score for a text.
        """
        if not texts:
            return []
        lines = (
            orjson.dumps({"id": str(number), "text": text.encode("utf-8", "replace").decode()})
            for number, text in enumerate(texts)
        )
        scores = self._scores(self._run(b"\n".join([*lines, b""])).splitlines())
        missing = next((n for n in range(len(texts)) if str(n) not in scores), None)
        if missing is not None:
            raise LlamaError(f"{self.line}: no score for text {missing} of {len(texts)}")
        return [scores[str(number)] for number in range(len(texts))]

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.line)
        except ValueError as error:
            raise LlamaError(f"{self.line}: {str(error).lower()}") from None
        if not words:
            raise LlamaError(
                "a scorer's command is empty", hint="--scorer 'command:python score.py'"
            )
        return words

    def _run(self, given: bytes) -> bytes:
        try:
            return subprocess.check_output(self._words(), input=given)
        except OSError as error:
            raise NotReadyError(f"{self.line}: {error.strerror}") from None
        except subprocess.CalledProcessError as error:
            raise LlamaError(f"{self.line}: ended with {error.returncode}") from None

    def _scores(self, lines: Iterable[bytes]) -> dict[str, float]:
        scores: dict[str, float] = {}
        for number, line in enumerate(lines, 1):
            try:
                row = orjson.loads(line)
                name, score = str(row["id"]), row["score"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise LlamaError(
                    f"{self.line}: line {number} is not {{'id', 'score'}}: {line[:60]!r}"
                ) from None
            if (
                isinstance(score, bool)
                or not isinstance(score, (int, float))
                or not 0 <= score <= 1
            ):
                raise LlamaError(f"{self.line}: line {number}: a score is 0 to 1, not {score}")
            scores[name] = float(score)
        return scores
