"""ARC-challenge, the grade-school science questions that retrieval and co-occurrence miss.

Clark et al., 2018, https://arxiv.org/abs/1803.05457; LLaMA, Table 3.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Task
from llama_cli.evaluation.tasks._labels import choices, gold, stem

TASK = Task(
    name="arc_challenge",
    metric="accuracy",
    files=Files("arc_challenge", ("ARC-Challenge-Test.jsonl",)),
    split="test",
    prompt=lambda row: f"Question: {stem(row)}\nAnswer:",
    kind=Choice(choices=choices, gold=gold, normalize="characters"),
    note="the paper prints no prompt; this is that of Brown et al. (2020), figure G.16",
    reported={"7B": 47.6, "13B": 52.7, "33B": 57.8, "65B": 56.0},
)
