"""Text that grows: what may be shown of it, and where a stop string cuts it."""

from __future__ import annotations

from collections.abc import Iterable


def cut(text: str, stops: Iterable[str]) -> str:
    r"""Give a text up to the first stop string.

    >>> cut("to be\nor", ["\n", "be"])
    'to '
    """
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def settled(text: str, stops: Iterable[str]) -> int:
    r"""Count the characters that no later token can change or cut.

    A trailing U+FFFD may be the first bytes of a character, and a text that ends with the
    beginning of a stop string may have to be cut there.

    >>> settled("to be or\nQ", ["\nQ:"])
    8
    """
    text = text.rstrip("\ufffd")
    return len(text) - max((_begun(text, stop) for stop in stops), default=0)


def _begun(text: str, stop: str) -> int:
    """Count the characters of a stop string's beginning that a text ends with."""
    longest = min(len(text), len(stop) - 1)
    return next((at for at in range(longest, 0, -1) if text.endswith(stop[:at])), 0)
