"""BoolQ, yes or no to a question about a passage.

Clark et al., 2019, https://arxiv.org/abs/1905.10044; LLaMA, Table 3, and section 3 for the rule:
the likelihood of a choice beside its likelihood after "Answer:" alone.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Row, Task


def _gold(row: Row) -> int:
    if not isinstance(row["answer"], bool):
        raise ValueError(f"label {row['answer']} is neither true nor false")
    return 0 if row["answer"] else 1


TASK = Task(
    name="boolq",
    metric="accuracy",
    files=Files("boolq", ("dev.jsonl",)),
    split="dev",
    prompt=lambda row: f"{row['passage']}\nquestion: {row['question'].rstrip('?')}?\nanswer:",
    kind=Choice(choices=lambda row: (" yes", " no"), gold=_gold, normalize="prior"),
    note="the paper prints no prompt; this is that of Brown et al. (2020), figure G.29",
    reported={"7B": 76.5, "13B": 78.1, "33B": 83.1, "65B": 85.3},
)
