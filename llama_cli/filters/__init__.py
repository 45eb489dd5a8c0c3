"""Steps that clean documents or drop them, and how they follow each other.

A step takes one Document and returns a Document or a Rejected; it holds nothing between
documents, so that any number of processes can share the work. What needs the whole stream,
duplicates, comes after the steps, in one place and in input order (duplicates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_cli.records import Document, Rejected

__all__ = ["Step", "run_steps"]

Step = Callable[[Document], Document | Rejected]


def run_steps(document: Document, steps: Sequence[Step]) -> Document | Rejected:
    """Pass one document through `steps`, up to the first that rejects it."""
    for step in steps:
        result = step(document)
        if isinstance(result, Rejected):
            return result
        document = result
    return document
