"""NaturalQuestions without documents: what people asked a search engine.

Kwiatkowski et al., 2019, https://aclanthology.org/Q19-1026; Lee et al., 2019, for the open part,
whose 3,610 questions of the dev file are what papers test on; LLaMA, Table 4 and figure 3.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.words import Words
from llama_cli.evaluation.task import Files, Shots, Task
from llama_cli.evaluation.tasks._asked import HEADER, question

TASK = Task(
    name="nq_open",
    metric="exact_match",
    files=Files("nq_open", ("NQ-open.dev.jsonl or NQ-open.efficientqa.dev.1.1.jsonl",)),
    split="dev",
    header=lambda row: HEADER,
    prompt=lambda row: question(row["question"]),
    kind=Words(golds=lambda row: row["answer"]),
    worked=Shots(
        worked=lambda row: question(row["question"], row["answer"][0]),
        files=Files("nq_open", ("NQ-open.train.jsonl",)),
        drawn=True,
    ),
    note="figure 3's prompt; which worked examples, and 24 new tokens, are ours",
    by_shots={
        0: {"7B": 16.8, "13B": 20.1, "33B": 24.9, "65B": 23.8},
        1: {"7B": 18.7, "13B": 23.4, "33B": 28.3, "65B": 31.0},
        5: {"7B": 22.0, "13B": 28.1, "33B": 32.9, "65B": 35.0},
        64: {"7B": 26.1, "13B": 31.9, "33B": 36.0, "65B": 39.9},
    },
)
