"""Keys of paragraphs, so that those seen before can be found (LLaMA, section 2.1).

The paper's CCNet "deduplicates the data at the line level". CCNet's normalisation (Wenzek
et al., 2019, section 3.1; cc_net, text_normalizer.py): strip, lower case, every digit to 0,
34 Unicode punctuation marks and all control characters removed. C4's is strip and lower
case. A key is XXH3's 64 bits where CCNet takes as many of SHA-1; key 0 is a line without
content, which is no paragraph.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from functools import partial

from xxhash import xxh3_64_intdigest

Keys = Callable[[str], bytes]  # one unsigned 64-bit integer a line, in the machine's order

PUNCTUATION = "，。、„”“«»１」「《》´∶：？！（）；–—．～’…━〈〉【】％►"  # noqa: RUF001
_REMOVED = re.compile(f"[{PUNCTUATION}\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f]")
_DIGIT = re.compile(r"\d")
_ASCII_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_ASCII_REMOVED = bytes(byte for byte in (*range(32), 127) if byte != 10)

CCNET_SEED = 1  # ours: the two kinds of lines, and documents, share one table
C4_SEED = 2


def ccnet_keys(text: str) -> bytes:
    """Hash each line in CCNet's normal form.

    >>> ccnet_keys("Page 12…\\n\\npage 34")[:8] == ccnet_keys("page 00")
    True
    """
    stripped = "\n".join(map(str.strip, text.split("\n"))).lower()
    if stripped.isascii():
        data = stripped.encode("ascii").translate(_ASCII_DIGITS, _ASCII_REMOVED)
    else:
        data = _REMOVED.sub("", _DIGIT.sub("0", stripped)).encode("utf-8", "surrogatepass")
    return _keys(data.split(b"\n"), CCNET_SEED)


def c4_keys(text: str) -> bytes:
    """Hash each line in C4's normal form."""
    stripped = "\n".join(map(str.strip, text.split("\n"))).lower()
    return _keys(stripped.encode("utf-8", "surrogatepass").split(b"\n"), C4_SEED)


def _keys(lines: list[bytes], seed: int) -> bytes:
    digest = partial(xxh3_64_intdigest, seed=seed)
    return array("Q", [digest(line) or 1 if line else 0 for line in lines]).tobytes()
