"""MMLU: 14,042 questions of 57 subjects, each with four choices.

Hendrycks et al., 2021, https://arxiv.org/abs/2009.03300; LLaMA, Tables 9, 10 and 16: "in the 5-shot
setting, using the examples provided by the benchmark". The average is over all questions: that
gives the paper's, the mean over subjects does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.rows import Found, Placed, read_table
from llama_cli.evaluation.task import Files, Row, Shots, Task
from llama_cli.evaluation.tasks._subjects import CATEGORY

LETTERS = "ABCD"


def _read(found: Found) -> Iterator[Placed]:
    for path in found[0]:
        subject = path.stem.rpartition("_")[0]
        rows = read_table(path, ("question", *LETTERS, "answer"))
        for number, (where, line, row) in enumerate(rows):
            yield where, line, {**row, "subject": subject, "id": f"{subject}.{number}"}


def _prompt(row: Row) -> str:
    options = "".join(f"{letter}. {row[letter]}\n" for letter in LETTERS)
    return f"{row['question']}\n{options}Answer:"


def _gold(row: Row) -> int:
    if row["answer"] not in tuple(LETTERS):
        raise ValueError(f"label {row['answer']!r} is outside its options A B C D")
    return LETTERS.index(row["answer"])


def _header(row: Row) -> str:
    subject = row["subject"].replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def _groups(row: Row) -> list[str]:
    if row["subject"] not in CATEGORY:
        raise ValueError(f"'{row['subject']}' is none of the 57 subjects")
    return [CATEGORY[row["subject"]], row["subject"]]


TASK = Task(
    name="mmlu",
    metric="accuracy",
    files=Files("mmlu", ("test/*_test.csv",), _read),
    split="test",
    header=_header,
    prompt=_prompt,
    groups=_groups,
    shots=5,
    worked=Shots(
        worked=lambda row: f"{_prompt(row)} {row['answer']}\n\n",
        files=Files("mmlu", ("dev/*_dev.csv",), _read),
        among=lambda row: str(row["subject"]),
    ),
    kind=Choice(
        choices=lambda row: [f" {letter}" for letter in LETTERS], gold=_gold, normalize="none"
    ),
    note="Hendrycks et al.'s prompt; worked examples are left out until it fits the context; the "
    "average is over questions; Anatomy counts as Other. 65B-I is after instruction tuning",
    reported={"7B": 35.1, "13B": 46.9, "33B": 57.8, "65B": 63.4, "65B-I": 68.9},
    by_group={
        "Humanities": {"7B": 34.0, "13B": 45.0, "33B": 55.8, "65B": 61.8},
        "STEM": {"7B": 30.5, "13B": 35.8, "33B": 46.0, "65B": 51.7},
        "Social Sciences": {"7B": 38.3, "13B": 53.8, "33B": 66.7, "65B": 72.9},
        "Other": {"7B": 38.1, "13B": 53.3, "33B": 63.4, "65B": 67.4},
    },
)
