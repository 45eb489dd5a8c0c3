"""Questions as the Allen Institute writes them: a stem, labelled choices, and the right label."""

from __future__ import annotations

from llama_cli.evaluation.task import Row


def stem(row: Row) -> str:
    """Give the question alone."""
    return str(row["question"]["stem"])


def choices(row: Row) -> list[str]:
    """Give the choices, each as it continues a prompt."""
    return [f" {choice['text']}" for choice in row["question"]["choices"]]


def gold(row: Row) -> int:
    """Find the right choice by its label: letters, or digits.

    Raises:
        ValueError: no choice has it.
    """
    labels = [choice["label"] for choice in row["question"]["choices"]]
    if row["answerKey"] not in labels:
        raise ValueError(f"label {row['answerKey']} is outside its options {' '.join(labels)}")
    return labels.index(row["answerKey"])
