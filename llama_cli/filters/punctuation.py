"""C4's rules: punctuation marks, and numbers of words and sentences (LLaMA, section 2.1).

The rules and their order are those of the code that built C4 (TensorFlow Datasets,
c4_utils.py), read with Raffel et al., 2020, section 2.2. Two things differ: sentences are
counted by a rule of ours where C4 takes NLTK's punkt, and no list of bad words is carried.
"""

from __future__ import annotations

import re
from dataclasses import replace

from llama_cli.records import Document, Rejected

MIN_WORDS = 5  # a line; c4_utils.py
MIN_SENTENCES = 3  # a page; c4_utils.py
MAX_WORD = 1000  # characters; c4_utils.py
MAX_PAGE = 190_000  # characters; c4_utils.py
END_MARKS = (".", "?", "!", '"')
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICIES = (
    *("terms of use", "privacy policy", "cookie policy"),
    *("uses cookies", "use of cookies", "use cookies"),
)
SUSPECT = ("{", "lorem ipsum", "javascript", "cookie", "policy", "terms of use")

# A word, its end mark, closing quotes, space; then opening quotes and what they open.
CLOSING = "\"'\u201d\u2019)\\]"
OPENING = "\"'\u201c\u2018(\\["
BOUNDARY = re.compile(rf"([^\s.?!]*)([.?!]+)[{CLOSING}]*(?=\s+[{OPENING}]*(\w))")
ABBREVIATIONS = frozenset(  # ours: frequent ones that a name or a number follows
    (
        *("mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "gen", "col", "capt", "lt", "sgt"),
        *("rev", "hon", "gov", "sen", "rep", "inc", "ltd", "co", "corp", "vs", "etc", "no"),
        *("nos", "vol", "pp", "fig", "figs", "eq", "sec", "ch", "ed", "eds", "al", "approx"),
        *("dept", "est", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct"),
        *("nov", "dec", "mt", "ft", "ave", "blvd"),
    )
)


def keep_sentences(
    document: Document, *, min_words: int = MIN_WORDS, min_sentences: int = MIN_SENTENCES
) -> Document | Rejected:
    """Keep the lines that end like sentences; reject a page with placeholder text or code.

    Of a page, `min_sentences` must be left.
    """
    text = document.text
    if len(text) > MAX_PAGE:
        return Rejected(document, "c4", "too_long")
    lower = text.lower()
    suspect = any(phrase in lower for phrase in SUSPECT)
    kept, sentences = [], 0
    for raw in text.splitlines():
        line = _sentence_like(raw.strip(), min_words)
        if line is None:
            continue
        if suspect:
            verdict = _verdict(line)
            if verdict == "drop_line":
                continue
            if verdict:
                return Rejected(document, "c4", verdict)
        if sentences < min_sentences:
            sentences += count_sentences(line)
        kept.append(line)
    if sentences < min_sentences:
        return Rejected(document, "c4", "few_sentences")
    return replace(document, text="\n".join(kept).strip())


def drop_few_sentences(
    document: Document, *, min_sentences: int = MIN_SENTENCES
) -> Document | Rejected:
    """Reject a page that has too few sentences once repeated lines are gone."""
    if sum(map(count_sentences, document.text.split("\n"))) < min_sentences:
        return Rejected(document, "c4", "few_sentences")
    return document


def count_sentences(line: str) -> int:
    """Count the sentences of a line.

    One ends at . ? or ! before a capital or a digit, but for initials and abbreviations.

    >>> count_sentences('Dr. J. Smith left. "Why?" she said. It was 3.14 p.m. or so.')
    3
    """
    if not line or line.isspace():
        return 0
    return 1 + sum(map(_is_end, BOUNDARY.finditer(line)))


def _is_end(match: re.Match[str]) -> bool:
    word, marks, following = match.groups()
    if following.islower():
        return False
    if marks != ".":
        return True
    is_initial = len(word) == 1 and word.isalpha()
    return not is_initial and word.lower().lstrip(OPENING) not in ABBREVIATIONS


def _sentence_like(line: str, min_words: int) -> str | None:
    """Return the line without its citations, if it has the shape of sentences."""
    if len(line) > MAX_WORD and any(len(word) > MAX_WORD for word in line.split()):
        return None
    if "[" in line:
        line = CITATION.sub("", line)
    if not line.endswith(END_MARKS) or line.endswith("..."):
        return None
    return line if len(line.split(None, min_words - 1)) >= min_words else None


def _verdict(line: str) -> str | None:
    """Say why the page is to be rejected, or "drop_line", or None; C4's order."""
    lower = line.lower()
    if "lorem ipsum" in lower:
        return "lorem_ipsum"
    if "javascript" in lower:
        return "drop_line"
    if "{" in line:
        return "curly_bracket"
    return "drop_line" if any(phrase in lower for phrase in POLICIES) else None
