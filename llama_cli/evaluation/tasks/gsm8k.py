"""GSM8K, grade-school mathematics in words; one solution, or the vote of 100.

Cobbe et al., 2021, https://arxiv.org/abs/2110.14168; LLaMA, Table 7, in Minerva's setup: eight
worked examples in the form of Wei et al. (2022), whose own are read by --examples.
"""

from __future__ import annotations

import re

from llama_cli.evaluation.kinds.reasoning import Reasoning
from llama_cli.evaluation.maths import last_number, number
from llama_cli.evaluation.task import Files, Row, Shots, Task
from llama_cli.evaluation.tasks._votes import OPEN, with_votes

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


GREEDY = Task(
    name="gsm8k",
    metric="accuracy",
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
    ),
    note="the first rows of the train file are the worked examples, unless --examples has those of "
    f"Wei et al. (2022); 320 {OPEN}",
    reported={"7B": 11.0, "13B": 17.8, "33B": 35.6, "65B": 50.9},
)
TASKS = with_votes(GREEDY, 100, {"7B": 18.1, "13B": 29.3, "33B": 53.1, "65B": 69.7})
