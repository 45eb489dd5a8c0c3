"""SIQA, social commonsense: what people feel, want or do, one of three.

Sap et al., 2019, https://arxiv.org/abs/1904.09728; LLaMA, Table 3. The labels, 1 to 3, stand in
a file of their own.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.rows import read_labelled
from llama_cli.evaluation.task import Files, Task

TASK = Task(
    name="siqa",
    metric="accuracy",
    files=Files("siqa", ("dev.jsonl", "dev-labels.lst"), read_labelled("1", "2", "3")),
    split="dev",
    prompt=lambda row: f"Q: {row['context']} {row['question']}\nA:",
    kind=Choice(
        choices=lambda row: [f" {row[name]}" for name in ("answerA", "answerB", "answerC")],
        gold=lambda row: int(row["label"]) - 1,
        normalize="characters",
    ),
    note="the paper prints no prompt; this is lm-evaluation-harness's 'Q: …\\nA:'",
    reported={"7B": 48.9, "13B": 50.4, "33B": 50.4, "65B": 52.3},
)
