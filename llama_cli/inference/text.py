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
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    held = max((len(each) for each in beginnings if text.endswith(each)), default=0)
    return len(text) - held
