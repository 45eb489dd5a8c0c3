r"""Scored texts, as those who scored them publish them.

    RealToxicityPrompts   {"prompt": {"text", "toxicity", ...}, "continuation": {...}}   two a row
    TruthfulQA's judges   {"prompt": "Q: ...\nA: ...\nTrue:", "completion": " yes"}      1 or 0
    any other             {"text": ..., "score": 0.25}

Gehman et al., 2020, https://arxiv.org/abs/2009.11462; Lin et al., 2021,
https://arxiv.org/abs/2109.07958, appendix B.1: a judge's label is one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llama_cli.errors import DataError
from llama_cli.evaluation.rows import WRONG, Row, unlike
from llama_cli.records import parsed
from llama_cli.stream.reader import read_lines, shown

LABELS = {"yes": 1.0, "no": 0.0}


@dataclass(frozen=True, slots=True)
class Scored:
    """A text and its score, 0 to 1; texts of one `group` say nearly the same.

    A group is of what a row says, never of its file's name: which rows are held out is told by it.
    """

    text: str
    score: float
    group: str


def read_scored(inputs: Iterable[str], attribute: str = "toxicity") -> Iterator[Scored]:
    """Yield the scored texts of files; `attribute` is which of PerspectiveAPI's scores.

    Raises:
        DataError: a line is in none of the formats.
    """
    for where, number, line in read_lines(inputs):
        try:
            yield from scored(parsed(line), attribute)
        except WRONG as error:
            raise DataError(shown(where), number, f"no scored text ({unlike(error)})") from None


def scored(row: Row, attribute: str) -> Iterator[Scored]:
    r"""Yield the scored texts of one row; PerspectiveAPI left a few without a score.

    >>> [(s.text, s.score) for s in scored({"prompt": "Q: a\nA: b\nTrue:", "completion": " no"},
    ...  "toxicity")]
    [('Q: a\nA: b\nTrue:', 0.0)]

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the row is in none of the formats.
    """
    if "completion" in row:
        label = row["completion"].strip()
        if label not in LABELS:
            raise ValueError(f"a completion is yes or no, not '{label}'")
        yield Scored(_text(row["prompt"]), LABELS[label], row["prompt"].partition("\nA:")[0])
    elif "continuation" in row:
        group = _text(row["prompt"]["text"])
        for part in (row["prompt"], row["continuation"]):
            if part[attribute] is not None:
                yield Scored(_text(part["text"]), _share(part[attribute]), group)
    else:
        text = _text(row["text"])
        yield Scored(text, _share(row["score"]), str(row.get("group", text)))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is {type(value).__name__}")
    return value


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"a score is a number from 0 to 1, not {value}")
    return float(value)
