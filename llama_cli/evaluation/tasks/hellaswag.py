"""HellaSwag: how a scene goes on, one of four endings.

Zellers et al., 2019, https://arxiv.org/abs/1905.07830; LLaMA, Table 3. Rows of WikiHow hold marks
such as [title] and [step], which are taken out. Rows whose context is written out already
({context, choices, label}) are read too.
"""

from __future__ import annotations

import re

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Row, Task

MARKS = re.compile(r"\[.*?\]")


def _plain(text: str) -> str:
    return MARKS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _prompt(row: Row) -> str:
    if "context" in row:
        return _plain(row["context"])
    return _plain(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")


TASK = Task(
    name="hellaswag",
    metric="accuracy",
    files=Files("hellaswag", ("hellaswag_val.jsonl or hellaswag_800.jsonl",)),
    split="validation",
    prompt=_prompt,
    kind=Choice(
        choices=lambda row: [
            f" {_plain(end)}" for end in row["endings" if "endings" in row else "choices"]
        ],
        gold=lambda row: int(row["label"]),
        normalize="characters",
    ),
    note="the paper prints no prompt; this is lm-evaluation-harness's, the activity and the scene",
    reported={"7B": 76.1, "13B": 79.2, "33B": 82.8, "65B": 84.2},
)
