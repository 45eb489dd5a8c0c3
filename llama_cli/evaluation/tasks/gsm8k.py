"""GSM8K, grade-school mathematics in words; one solution, or the vote of 100.

Cobbe et al., 2021, https://arxiv.org/abs/2110.14168; LLaMA, Table 7, in Minerva's setup: eight
worked examples in the form of Wei et al. (2022), whose own are read by --examples.
"""

from __future__ import annotations

import re

from llama_cli.evaluation.kinds.reasoning import Reasoning
from llama_cli.evaluation.maths import last_number, number
from llama_cli.evaluation.task import Figures, Files, Row, Shots, Task

CALCULATED = re.compile(r"<<.*?>>")


def _gold(row: Row) -> str:
    _, mark, answer = row["answer"].partition("#### ")
    if not mark:
        raise ValueError("the answer has no '#### '")
    return str(answer.strip())


def _worked(row: Row) -> str:
    steps = CALCULATED.sub("", row["answer"].partition("####")[0])
    solution = " ".join(steps.split())
    return f"Q: {row['question']}\nA: {solution} The answer is {_gold(row)}.\n\n"


def _task(name: str, metric: str, votes: int, reported: Figures) -> Task:
    return Task(
        name=name,
        metric=metric,
        files=Files("gsm8k", ("test.jsonl",)),
        split="test",
        prompt=lambda row: f"Q: {row['question']}\nA:",
        shots=8,
        worked=Shots(worked=_worked, files=Files("gsm8k", ("train.jsonl",))),
        kind=Reasoning(
            gold=_gold,
            final=last_number,
            same=number,
            stop=("\n\n", "\nQ:"),
            max_tokens=320,
            normalize="last number",
            votes=votes,
        ),
        note="the first rows of the train file are the worked examples, unless --examples has "
        "those of Wei et al. (2022); 320 new tokens and, for votes, Minerva's temperature 0.6 and "
        "top-p 0.95 are not the paper's words",
        reported=reported,
    )


TASKS = (
    _task("gsm8k", "accuracy", 1, {"7B": 11.0, "13B": 17.8, "33B": 35.6, "65B": 50.9}),
    _task("gsm8k@100", "maj1@100", 100, {"7B": 18.1, "13B": 29.3, "33B": 53.1, "65B": 69.7}),
)
