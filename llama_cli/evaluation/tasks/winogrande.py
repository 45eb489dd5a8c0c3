"""WinoGrande: which of two names fits the blank.

Sakaguchi et al., 2019, https://arxiv.org/abs/1907.10641; LLaMA, Table 3. Partial evaluation, as
Brown et al. (2020), figure G.14: either name is put in the blank, and what follows it is scored.
It is the same text twice, so no normalisation matters.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Row, Task


def _choices(row: Row) -> list[tuple[str, str]]:
    before, blank, after = row["sentence"].partition("_")
    if not blank:
        raise ValueError("the sentence has no blank")
    return [(before + row[name], after) for name in ("option1", "option2")]


TASK = Task(
    name="winogrande",
    metric="accuracy",
    files=Files("winogrande", ("dev.jsonl",)),
    split="dev",
    prompt=lambda row: "",
    id=lambda row: row.get("qID"),
    kind=Choice(choices=_choices, gold=lambda row: int(row["answer"]) - 1, normalize="none"),
    note="partial evaluation, as Brown et al. (2020): the text after the blank is scored",
    reported={"7B": 70.1, "13B": 73.0, "33B": 76.0, "65B": 77.0},
)
