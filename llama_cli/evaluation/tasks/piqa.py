"""PIQA, physical commonsense: which of two solutions reaches a goal.

Bisk et al., 2020, https://arxiv.org/abs/1911.11641; LLaMA, Table 3. The labels stand in a
file of their own, a line for each row.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.rows import read_labelled
from llama_cli.evaluation.task import Files, Task

TASK = Task(
    name="piqa",
    metric="accuracy",
    files=Files("piqa", ("valid.jsonl", "valid-labels.lst"), read_labelled("0", "1")),
    split="validation",
    prompt=lambda row: f"Question: {row['goal']}\nAnswer:",
    kind=Choice(
        choices=lambda row: (f" {row['sol1']}", f" {row['sol2']}"),
        gold=lambda row: int(row["label"]),
        normalize="characters",
    ),
    note="the paper prints no prompt; this is lm-evaluation-harness's 'Question: …\\nAnswer:'",
    reported={"7B": 79.8, "13B": 80.1, "33B": 82.3, "65B": 82.8},
)
