"""ARC-easy, grade-school science questions with three to five answers.

Clark et al., 2018, https://arxiv.org/abs/1803.05457; LLaMA, Table 3. Some questions label
their answers with digits instead of letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_cli.evaluation.data import read_rows
from llama_cli.evaluation.task import Choice, Row


def _read(paths: Sequence[Path]) -> Iterator[Row]:
    return (row for _, row in read_rows(paths[0]))


def _gold(row: Row) -> int:
    return [choice["label"] for choice in row["question"]["choices"]].index(row["answerKey"])


TASK = Choice(
    name="arc_easy",
    dataset="arc_easy",
    files=("ARC-Easy-Test.jsonl",),
    read=_read,
    split="test",
    shots=0,
    prompt=lambda row: f"Question: {row['question']['stem']}\nAnswer:",
    choices=lambda row: [f" {choice['text']}" for choice in row["question"]["choices"]],
    gold=_gold,
    note="the paper prints no prompt; this is that of Brown et al. (2020), figure G.11",
    reported={"7B": 72.8, "13B": 74.8, "33B": 80.0, "65B": 78.9},
)
