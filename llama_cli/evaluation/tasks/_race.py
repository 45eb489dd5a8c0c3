"""RACE: questions about an article, from English exams of Chinese schools.

Lai et al., 2017, https://arxiv.org/abs/1704.04683; LLaMA, Table 6, "the evaluation setup from
Brown et al. (2020)": their figures G.1 and G.3 show the article, then all its earlier questions
with the right answers, and rank choices beside their likelihood after "A:" alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.rows import Found, Placed, official, read_object
from llama_cli.evaluation.task import Files, Row, Task


def _read(found: Found) -> Iterator[Placed]:
    for path in found[0]:
        article = read_object(path)
        with official(str(path), 1):
            count = len(article["questions"])
        for number in range(count):
            yield str(path), 1, {**article, "name": path.stem, "number": number}


def _gold(row: Row) -> int:
    label, options = row["answers"][row["number"]], row["options"][row["number"]]
    at = "ABCDEFGH".find(label)
    if not label or not 0 <= at < len(options):
        raise ValueError(f"label {label} is outside its {len(options)} options")
    return at


def _prompt(row: Row) -> str:
    asked = [
        f"Q: {row['questions'][at]}\nA: {row['options'][at][_gold({**row, 'number': at})]}\n\n"
        for at in range(row["number"])
    ]
    question = row["questions"][row["number"]]
    return "".join([f"Article: {row['article']}\n\n", *asked, f"Q: {question}\nA:"])


def race(level: str, reported: Mapping[str, float]) -> Task:
    """Make the task of one level, "middle" or "high"."""
    return Task(
        name=f"race_{level}",
        metric="accuracy",
        files=Files("race", (f"RACE/test/{level}/*.txt or test/{level}/*.txt",), _read),
        split="test",
        prompt=_prompt,
        id=lambda row: f"{row['name']}.{row['number']}",
        kind=Choice(
            choices=lambda row: [f" {option}" for option in row["options"][row["number"]]],
            gold=_gold,
            normalize="prior",
            alone="A:",
        ),
        note="earlier questions of an article stand before the next, with the right answers",
        reported=reported,
    )
