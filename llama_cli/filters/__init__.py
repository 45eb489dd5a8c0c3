"""Steps that clean documents or drop them, and the loop that runs them.

A step takes one Document and returns a Document or a Rejected; it holds nothing between
documents, so that any number of processes can share the work. What needs the whole stream,
duplicates, comes after the steps, in one place and in input order (duplicates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from llama_cli.records import Document, Rejected

__all__ = ["Step", "run_steps", "run_steps_on"]

Step = Callable[[Document], Document | Rejected]


def run_steps(
    documents: Iterable[Document], steps: Sequence[Step]
) -> Iterator[Document | Rejected]:
    """Yield one item per document, in input order, holding one document at a time."""
    for document in documents:
        yield run_steps_on(document, steps)


def run_steps_on(document: Document, steps: Sequence[Step]) -> Document | Rejected:
    """Pass one document through `steps`, up to the first that rejects it."""
    for step in steps:
        result = step(document)
        if isinstance(result, Rejected):
            return result
        document = result
    return document
