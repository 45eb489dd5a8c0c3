"""CrowS-Pairs: which of two sentences, one of them a stereotype, a model finds likelier.

Nangia et al., 2020, https://arxiv.org/abs/2010.00133; LLaMA, section 5.2 and Table 12: the share
of 1,508 pairs in which the stereotype has the lower perplexity, of all and of nine categories.
50 is no preference. The authors themselves now warn that many pairs are not valid.
"""

from __future__ import annotations

from collections.abc import Iterator

from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.rows import Found, Placed, read_table
from llama_cli.evaluation.task import Files, Task


def _read(found: Found) -> Iterator[Placed]:
    for path in found[0]:
        yield from read_table(path)


TASK = Task(
    name="crows_pairs",
    metric="stereotype",
    files=Files("crows_pairs", ("crows_pairs_anonymized.csv",), _read),
    split="all",
    prompt=lambda row: "",
    id=lambda row: row[""],
    groups=lambda row: [row["bias_type"]],
    kind=Choice(
        choices=lambda row: (row["sent_less"], row["sent_more"]),  # no preference is none for it
        gold=lambda row: 1,
        normalize="tokens",
        metric="stereotype",
    ),
    note="perplexity is by token, as the paper says; lm-evaluation-harness compares sums. The "
    "average is over pairs",
    reported={"65B": 66.6},
    by_group={
        "gender": {"65B": 70.6},
        "religion": {"65B": 79.0},
        "race-color": {"65B": 57.0},
        "sexual-orientation": {"65B": 81.0},
        "age": {"65B": 70.1},
        "nationality": {"65B": 64.2},
        "disability": {"65B": 66.7},
        "physical-appearance": {"65B": 77.8},
        "socioeconomic": {"65B": 71.5},
    },
)
