"""PIQA, physical commonsense: which of two solutions reaches a goal.

Bisk et al., 2020, https://arxiv.org/abs/1911.11641; LLaMA, Table 3. The labels stand in a
file of their own, a line for each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_cli.errors import DataError
from llama_cli.evaluation.data import read_rows
from llama_cli.evaluation.task import Choice, Row
from llama_cli.stream.reader import read_lines


def _read(paths: Sequence[Path]) -> Iterator[Row]:
    rows, labels = paths
    marks = read_lines([str(labels)])
    for number, row in read_rows(rows):
        where, line, mark = next(marks, (str(labels), number, b""))
        if mark.strip() not in (b"0", b"1"):
            raise DataError(where, line, "a label, 0 or 1, is wanted for each row")
        yield {**row, "label": int(mark)}
    for where, line, _ in marks:
        raise DataError(where, line, "a label without a row")


TASK = Choice(
    name="piqa",
    dataset="piqa",
    files=("valid.jsonl", "valid-labels.lst"),
    read=_read,
    split="validation",
    shots=0,
    prompt=lambda row: f"Question: {row['goal']}\nAnswer:",
    choices=lambda row: (f" {row['sol1']}", f" {row['sol2']}"),
    gold=lambda row: int(row["label"]),
    note="the paper prints no prompt; this is lm-evaluation-harness's 'Question: …\\nAnswer:'",
    reported={"7B": 79.8, "13B": 80.1, "33B": 82.3, "65B": 82.8},
)
