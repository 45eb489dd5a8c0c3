"""Line-shape rules for source code (LLaMA, section 2.1, "Github").

The paper filters low-quality files by heuristics on line length and on the proportion of
alphanumeric characters. It gives no numbers: these are those of Codex (Chen et al., 2021,
section 3.1: average line 100, longest line 1000) and RedPajama's quarter of alphanumerics,
and are options of `llama filter`.
"""

from __future__ import annotations

import re

from llama_cli.records import Document, Rejected

ALNUM = bytes(byte for byte in range(128) if chr(byte).isalnum())
NON_ASCII = re.compile(r"[^\x00-\x7f]")


def drop_odd_lines(
    document: Document,
    *,
    max_line: int = 1000,
    max_mean_line: float = 100.0,
    min_alnum: float = 0.25,
) -> Document | Rejected:
    """Reject a file with long lines, or with few letters and digits.

    >>> drop_odd_lines(Document("b", "####", "github")).reason
    'few_alnum'
    """
    text = document.text
    if not text:
        return document
    lines = text.removesuffix("\n").split("\n")
    if max(map(len, lines)) > max_line:
        return Rejected(document, "odd_lines", "long_line")
    if sum(map(len, lines)) > max_mean_line * len(lines):
        return Rejected(document, "odd_lines", "long_lines")
    if count_alnum(text) < min_alnum * len(text):
        return Rejected(document, "odd_lines", "few_alnum")
    return document


def count_alnum(text: str) -> int:
    """Count letters and digits, those of any script.

    >>> count_alnum("Größe = 3²")
    7
    """
    ascii_part = text.encode("ascii", "ignore")
    others = () if text.isascii() else NON_ASCII.findall(text)
    return len(ascii_part) - len(ascii_part.translate(None, ALNUM)) + sum(map(str.isalnum, others))
