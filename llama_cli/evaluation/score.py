"""From likelihoods to figures: the rule of choice, accuracy, bits per byte, and their errors.

LLaMA, section 3: the answer is "the completion with the highest likelihood ... normalized by
the number of characters in the completion" (Gao et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from llama_cli.errors import LlamaError
from llama_cli.evaluation.task import BitsPerByte, Choice, Normalize, Question
from llama_cli.records import Score


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model made of one row: ln p of each choice, and the one it picks."""

    question: Question
    loglikelihoods: Sequence[float]
    picked: int
    truncated: bool  # the prompt lost its beginning to fit the context

    @property
    def correct(self) -> bool:
        """Compare with the gold answer."""
        return self.picked == self.question.gold

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(
            {
                **self.question.as_json(),
                "loglikelihoods": list(self.loglikelihoods),
                "picked": self.picked,
                "correct": self.correct,
                "truncated": self.truncated,
            }
        )


@dataclass(frozen=True, slots=True)
class Length:
    """The code length of one document."""

    task: str
    id: str
    utf8_bytes: int
    tokens: int
    bits: float

    def to_json(self) -> bytes:
        """Write one line, without its end."""
        return orjson.dumps(asdict(self))


def pick(loglikelihoods: Sequence[float], choices: Sequence[str], normalize: Normalize) -> int:
    """Give the index of the best choice; the first of equals.

    The space that joins a choice to its prompt is not one of its characters.

    >>> pick([-2.0, -3.0], [" a", " bb"], "characters"), pick([-2.0, -3.0], [" a", " bb"], "none")
    (1, 0)
    """
    lengths = [
        max(1, len(choice.removeprefix(" "))) if normalize == "characters" else 1
        for choice in choices
    ]
    values = [value / length for value, length in zip(loglikelihoods, lengths, strict=True)]
    return values.index(max(values))


class Accuracy:
    """Count right answers; percent, with the binomial standard error."""

    def __init__(self, task: Choice) -> None:
        self.task = task
        self.count = self.right = self.truncated = 0

    def add(self, answer: Answer) -> None:
        """Count one row."""
        self.count += 1
        self.right += answer.correct
        self.truncated += answer.truncated

    def score(self) -> Score:
        """Give the figure in the paper's unit.

        Raises:
            LlamaError: no row was counted.
        """
        if not self.count:
            raise LlamaError(f"{self.task.name}: no rows to score")
        rate = self.right / self.count
        return Score(
            task=self.task.name,
            metric="accuracy",
            value=100 * rate,
            stderr=100 * math.sqrt(rate * (1 - rate) / self.count),
            shots=self.task.shots,
            normalization=self.task.normalize,
            reported=self.task.reported,
        )


class Rate:
    """Add up bits and bytes; the standard error is that of a ratio of two sums.

    Cochran, Sampling Techniques, 3rd edition, 2.11: documents are the sample, so long ones
    weigh by their bytes and their number decides the error.
    """

    def __init__(self, task: BitsPerByte) -> None:
        self.task = task
        self.count = self.bytes = self.tokens = 0
        self.bits = self._bits2 = self._cross = self._bytes2 = 0.0

    def add(self, length: Length) -> None:
        """Count one document."""
        self.count += 1
        self.bytes += length.utf8_bytes
        self.tokens += length.tokens
        self.bits += length.bits
        self._bits2 += length.bits**2
        self._cross += length.bits * length.utf8_bytes
        self._bytes2 += length.utf8_bytes**2

    def score(self) -> Score:
        """Give bits a byte.

        Raises:
            LlamaError: no byte was counted.
        """
        if not self.bytes:
            raise LlamaError(f"{self.task.name}: no text to score")
        return Score(
            task=self.task.name,
            metric="bits_per_byte",
            value=self.bits / self.bytes,
            stderr=self._stderr(),
            shots=0,
            normalization="bytes",
        )

    def _stderr(self) -> float | None:
        """Spread of bits around rate * bytes; one document has none."""
        if self.count < 2:
            return None
        rate = self.bits / self.bytes
        spread = self._bits2 - 2 * rate * self._cross + rate**2 * self._bytes2
        return math.sqrt(max(0.0, spread) * self.count / (self.count - 1)) / self.bytes


Tally = Accuracy | Rate
