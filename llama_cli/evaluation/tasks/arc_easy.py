"""ARC-easy, grade-school science questions with three to five answers.

Clark et al., 2018, https://arxiv.org/abs/1803.05457; LLaMA, Table 3. Some questions label
their answers with digits instead of letters.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Task
from llama_cli.evaluation.tasks._labels import choices, gold, stem

TASK = Task(
    name="arc_easy",
    metric="accuracy",
    files=Files("arc_easy", ("ARC-Easy-Test.jsonl",)),
    split="test",
    prompt=lambda row: f"Question: {stem(row)}\nAnswer:",
    kind=Choice(choices=choices, gold=gold, normalize="characters"),
    note="the paper prints no prompt; this is that of Brown et al. (2020), figure G.11",
    reported={"7B": 72.8, "13B": 74.8, "33B": 80.0, "65B": 78.9},
)
