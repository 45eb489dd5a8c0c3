"""Rows of benchmarks as requests, the same for both sides of the comparison.

Few-shot examples are fixed: MMLU's are its dev rows; NaturalQuestions' are cut from the rows at
hand, which are its dev split, and those after them are asked.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llama_cli.evaluation.request import Request
from tests.shell import ROOT

DATA = ROOT.parent / "shared" / "data" / "eval"
SHOTS, LETTERS = 64, "ABCD"
Row = dict[str, Any]
Asked = tuple[str, list[str], int]  # context, choices, the right one


def ranking(name: str, count: int) -> list[Request]:
    """Give the first rows of a benchmark whose answers are ranked."""
    file, ask = RANKED[name]
    lines = islice((DATA / file).open(encoding="utf-8"), count)
    labels = DATA / file.replace(".jsonl", "-labels.lst")
    gold = labels.read_text().split() if labels.exists() else []
    rows = [json.loads(line) for line in lines]
    for row, label in zip(rows, gold, strict=False):
        row["label"] = int(label)
    return [_request(name, number, *ask(row)) for number, row in enumerate(rows)]


def mmlu(subjects: int, count: int) -> list[Request]:
    """Give rows of some subjects with five shots."""
    files = sorted((DATA / "mmlu" / "test").iterdir())[:subjects]
    made = [row for file in files for row in islice(_mmlu(file), count)]
    return [_request("mmlu", number, *row) for number, row in enumerate(made)]


def natural_questions(count: int) -> list[Request]:
    """Give rows with 64 shots."""
    lines = (DATA / "nq_open" / "NQ-open.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: SHOTS + count]]
    worked = (f"Q: {row['question']}?\nA: {row['answer'][0]}\n" for row in rows[:SHOTS])
    header = "Answer these questions:\n" + "".join(worked)
    return [
        Request(
            task="nq",
            id=str(number),
            kind="complete",
            gold=row["answer"],
            prompt=f"{header}Q: {row['question']}?\nA:",
            stop=["\n"],
            max_tokens=24,
        )
        for number, row in enumerate(rows[SHOTS:])
    ]


def _request(name: str, number: int, context: str, choices: list[str], gold: int) -> Request:
    pairs = [(context, f" {choice}") for choice in choices]
    return Request(task=name, id=str(number), kind="score", gold=gold, pairs=pairs)


def _boolq(row: Row) -> Asked:
    context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return context, ["no", "yes"], int(row["answer"])


def _piqa(row: Row) -> Asked:
    return f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"]


def _hellaswag(row: Row) -> Asked:
    clean = [re.sub(r"\[.*?\]", "", each.replace(" [title]", ". ")) for each in row["choices"]]
    return row["context"], [each.replace("  ", " ").strip() for each in clean], row["label"]


def _arc(row: Row, *, form: str) -> Asked:
    choices = row["question"]["choices"]
    gold = [each["label"] for each in choices].index(row["answerKey"])
    return form.format(row["question"]["stem"]), [each["text"] for each in choices], gold


def _mmlu(file: Path) -> Iterator[Asked]:
    subject = file.name.removesuffix("_test.csv")
    about = f"multiple choice questions (with answers) about {subject.replace('_', ' ')}"
    header = f"The following are {about}.\n\n"
    dev = _csv(DATA / "mmlu" / "dev" / f"{subject}_dev.csv")
    shots = "".join(f"{_question(row)} {row[5]}\n\n" for row in dev)
    for row in _csv(file):
        yield f"{header}{shots}{_question(row)}", list(LETTERS), LETTERS.index(row[5])


def _question(row: list[str]) -> str:
    options = (f"{letter}. {text}\n" for letter, text in zip(LETTERS, row[1:5], strict=True))
    return f"{row[0]}\n{''.join(options)}Answer:"


def _csv(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file)


QUESTION = "Question: {}\nAnswer:"
RANKED: dict[str, tuple[str, Callable[[Row], Asked]]] = {
    "boolq": ("boolq/dev.jsonl", _boolq),
    "piqa": ("piqa/valid.jsonl", _piqa),
    "hellaswag": ("hellaswag/hellaswag_800.jsonl", _hellaswag),
    "arc_easy": ("arc_easy/ARC-Easy-Test.jsonl", partial(_arc, form=QUESTION)),
    "arc_challenge": ("arc_challenge/ARC-Challenge-Test.jsonl", partial(_arc, form=QUESTION)),
    "openbookqa": ("openbookqa/test.jsonl", partial(_arc, form="{}")),
}
