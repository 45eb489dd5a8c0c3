"""Bytes to text: UTF-8, or what the file itself declares; nothing is guessed.

A wrong guess would put mojibake into the corpus without a word, so that a file which is
neither valid UTF-8 nor says what it is gets rejected and counted.
"""

from __future__ import annotations

import codecs
import re

MARKS = (  # byte order marks, longest first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
HEAD = 8192  # bytes; ours: git looks for NUL in as many
# PEP 263, Emacs and Vim: the first or second line
COOKIE = re.compile(rb"\A(?:[^\n]*\n)?[^\n]*?coding[:=][ \t]*([-\w.]+)")


class NotText(ValueError):
    """Bytes that are no text; the message is the reason, "binary" or "not_utf8"."""


def decode(data: bytes) -> str:
    r"""Decode a text file, without its byte order mark and with `\n` at line ends.

    >>> decode(b"\xef\xbb\xbfone\r\ntwo")
    'one\ntwo'

    Raises:
        NotText: it is no text, or in an encoding that it does not declare.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:HEAD]:
        raise NotText("binary")
    text = _decode(data, encoding or "utf-8")
    if text is None and encoding is None and (cookie := COOKIE.match(data)):
        text = _decode(data, cookie[1].decode("ascii", "replace"))
    if text is None:
        raise NotText("not_utf8")
    return text.replace("\r\n", "\n") if "\r" in text else text


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        # a cookie may name a codec that makes no text at all, such as "hex"
        return codecs.lookup(encoding).decode(data)[0] if _is_text(encoding) else None
    except (UnicodeDecodeError, LookupError):
        return None


def _is_text(encoding: str) -> bool:
    return bool(getattr(codecs.lookup(encoding), "_is_text_encoding", True))
