"""Questions without a document, as figure 3 of the paper writes them."""

from __future__ import annotations

HEADER = "Answer these questions:\n"


def question(text: str, answer: str | None = None) -> str:
    r"""Write a question, open or with its answer.

    >>> question("who is who", "Who"), question("Who is who?")
    ('Q: who is who?\nA: Who\n', 'Q: Who is who?\nA:')
    """
    asked = f"Q: {text.strip().rstrip('?').rstrip()}?\nA:"
    return asked if answer is None else f"{asked} {answer}\n"
