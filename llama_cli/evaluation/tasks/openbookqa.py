"""OpenBookQA, elementary science whose questions need a fact and common knowledge.

Mihaylov et al., 2018, https://arxiv.org/abs/1809.02789; LLaMA, Table 3, and section 3 for the
rule: the likelihood of a choice beside its likelihood after "Answer:" alone.
"""

from __future__ import annotations

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.task import Files, Task
from llama_cli.evaluation.tasks._labels import choices, gold, stem

TASK = Task(
    name="openbookqa",
    metric="accuracy",
    files=Files("openbookqa", ("test.jsonl",)),
    split="test",
    prompt=stem,
    kind=Choice(choices=choices, gold=gold, normalize="prior"),
    note="the paper prints no prompt; this is the bare stem of Brown et al. (2020), figure G.8",
    reported={"7B": 57.2, "13B": 56.4, "33B": 58.6, "65B": 60.2},
)
