"""Documents with nothing in them, or too little (CCNet drops web pages under 300 characters)."""

from __future__ import annotations

from llama_cli.records import Document, Rejected


def drop_short(document: Document, *, min_characters: int = 1) -> Document | Rejected:
    """Reject a document without text, or with fewer than `min_characters`.

    >>> drop_short(Document("d", " \\n", "files")).reason
    'empty'
    """
    if not document.text or document.text.isspace():
        return Rejected(document, "length", "empty")
    if len(document.text) < min_characters:
        return Rejected(document, "length", "too_short")
    return document
