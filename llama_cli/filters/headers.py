"""Remove licence headers from source files (LLaMA, section 2.1: "boilerplate, such as headers").

Only paragraphs of comments that a file begins with are looked at, and only those with the
words of licences are removed: a shebang, an encoding line, `#include`, a Markdown title and
what a header says about the file itself stay; so do docstrings, which are text. `#` starts
a comment only in languages where it does, so that the language has to be known for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from llama_cli.records import Document

HEAD = 20_000  # characters of a file in which a header may stand; ours

_C_LIKE = (
    *("C", "C#", "C++", "CSS", "CUDA", "D", "Dart", "GLSL", "Go", "Groovy", "Java"),
    *("JavaScript", "Kotlin", "Objective-C", "PHP", "Protocol Buffer", "Rust", "SQL", "Scala"),
    *("Stylus", "Swift", "TypeScript", "Verilog", "Vue", "Zig"),
)
_HASH = (
    *("CMake", "Cython", "Dockerfile", "Elixir", "INI", "Julia", "Makefile", "Nim", "PHP"),
    *("Perl", "PowerShell", "Python", "R", "Ruby", "Shell", "Starlark", "TOML", "Tcl", "YAML"),
)
LINE_MARKS = {  # what a comment line begins with, by language
    "//": (*_C_LIKE, "F#"),
    "#": _HASH,
    "--": ("Ada", "Elm", "Haskell", "Lua", "SQL", "VHDL"),
    ";": ("Assembly", "Clojure", "Common Lisp", "Emacs Lisp", "INI", "Racket", "Scheme"),
    "%": ("Erlang", "Prolog", "TeX"),
    "!": ("Fortran",),
    '"': ("Vim Script",),
}
BLOCK_MARKS = {
    ("/*", "*/"): _C_LIKE,
    ("<!--", "-->"): ("HTML", "Markdown", "Vue", "XML"),
    ("(*", "*)"): ("F#", "OCaml", "Pascal", "Standard ML"),
    ("{-", "-}"): ("Elm", "Haskell"),
    ("--[[", "]]"): ("Lua",),
    ("#|", "|#"): ("Common Lisp", "Racket", "Scheme"),
}
ANYWHERE = ("//", ("/*", "*/"))  # comments in whatever language is not known

PREAMBLE = re.compile(r"#!|[#/;\"%-]*\s*-\*-|#.*coding[:=]|<\?|<!doctype", re.IGNORECASE)
DECORATION = " \t*/#;%!\"'|+=~_-"
BLOCK_ENDS = re.compile(r"^\s*(?:<!--|\(\*|\{-|--\[\[|#\|)|(?:-->|\*\)|-\}|\]\]|\|#)\s*$")
WORDS = ("copyright", "licen", "spdx-", "©", "rights reserved", "warrant", "redistribut")
LEGAL = re.compile(
    r"""copyright[ ](?:\(c\)|©|\d{4}|by|notice|holder|owner|the)|©|\(c\)[ ]\d{4}|[@\\]copyright
    |copyright:|all[ ]rights[ ]reserved|spdx-|[@\\]licen[sc]e|^licen[sc]e\b
    |^(?:[\w.-]+[ ]){1,4}licen[sc]e$|^(?:begin|end)[ ]licen[sc]e
    |licen[sc]ed?[ ](?:under|to[ ]|at|agreement|terms|file|as)
    |(?:under|see|in|of|with|by)[ ](?:the|a|an)[ ](?:\S+[ ]){0,5}licen[sc]e
    |permission[ ](?:is[ ]hereby[ ]granted|to[ ]use)|permission[ ]notice
    |redistributions?[ ](?:and[ ]use|of|in)|free[ ]software|public[ ]domain
    |without[ ](?:\S+[ ]){0,4}warrant|warrant(?:y|ies)[ ]of|provided[ ]\S*as[ ]is
    |in[ ]no[ ]event|merchantability|received[ ]a[ ]copy|applicable[ ]law
    |you[ ]may[ ](?:not[ ]use|obtain)|neither[ ]the[ ]names?|following[ ]conditions
    |endorse[ ]or[ ]promote|limitation[ ]of[ ]liability|governed[ ]by|distributed[ ]under
    |this[ ]file[ ]is[ ](?:a[ ])?part[ ]of|www\.apache\.org/licenses|www\.gnu\.org/licenses
    |opensource\.org/licenses""",
    re.IGNORECASE | re.VERBOSE,
)


def remove_header(document: Document) -> Document:
    """Remove the licence paragraphs from the comments that a file begins with."""
    text = document.text
    head = text[:HEAD].lower()
    if not any(word in head for word in WORDS):
        return document
    bare = without_header(text, document.metadata.get("language"))
    return document if bare == text else replace(document, text=bare)


def without_header(text: str, language: str | None = None) -> str:
    r"""Return the text without licence paragraphs at its beginning.

    >>> without_header("#!/bin/sh\n# Copyright 2020 A. Nyone\n\necho hello\n", "Shell")
    '#!/bin/sh\n\necho hello\n'
    """
    lines = text.split("\n")
    kept: list[str] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip() or (at < 3 and PREAMBLE.match(lines[at])):
            kept.append(lines[at])
            at += 1
            continue
        end = _comment_end(lines, at, language)
        if end is None:
            break
        comment = lines[at:end]
        rest = _without_legal(comment)
        kept += rest
        at = end
        while not rest and at < len(lines) and not lines[at].strip() and not any(kept[-1:]):
            at += 1  # the blank lines after a header that is gone
    return "\n".join([*kept, *lines[at:]]) if kept or at else text


def _marks(language: str | None) -> Iterator[str | tuple[str, str]]:
    """Yield the comment marks of a language, those of blocks first: Lua's `--[[` is `--` too."""
    known = language is not None
    for block, languages in BLOCK_MARKS.items():
        if (language in languages) if known else (block in ANYWHERE):
            yield block
    for mark, languages in LINE_MARKS.items():
        if (language in languages) if known else (mark in ANYWHERE):
            yield mark


def _comment_end(lines: list[str], at: int, language: str | None) -> int | None:
    """Find the line after the comment that begins at line `at`, if one does."""
    first = lines[at].lstrip()
    for mark in _marks(language):
        if isinstance(mark, str):
            if first.startswith(mark):
                end = at + 1
                while end < len(lines) and lines[end].lstrip().startswith(mark):
                    end += 1
                return end
        elif first.startswith(mark[0]):
            return _block_end(lines, at, *mark)
    return None


def _block_end(lines: list[str], at: int, opening: str, closing: str) -> int | None:
    skipped = lines[at].index(opening) + len(opening)
    for number in range(at, len(lines)):
        found = lines[number].find(closing, skipped if number == at else 0)
        if found >= 0:
            code = lines[number][found + len(closing) :].strip()
            return None if code else number + 1
    return None


def _without_legal(comment: list[str]) -> list[str]:
    """Drop the paragraphs of a comment that are legal; a block keeps its marks if any is left."""
    paragraphs = list(_paragraphs(comment))
    rest = [_before_legal(paragraph) for paragraph in paragraphs]
    if rest == paragraphs:
        return comment
    body = [line for lines in rest for line in lines]
    while body and not _bare(body[-1]):
        body.pop()
    return _with_marks(comment, body) if body else []


def _paragraphs(comment: list[str]) -> Iterator[list[str]]:
    """Cut a comment where a line has nothing but marks; such lines go with what precedes."""
    paragraph: list[str] = []
    for line in comment:
        if paragraph and _bare(line) and not _bare(paragraph[-1]):
            yield paragraph
            paragraph = []
        paragraph.append(line)
    yield paragraph


def _before_legal(paragraph: list[str]) -> list[str]:
    """Keep the lines of a paragraph before the first legal one; all, if none is."""
    bare = [_bare(line) for line in paragraph]
    for number, line in enumerate(bare):
        if LEGAL.search(line):
            return paragraph[:number]
    return [] if LEGAL.search(" ".join(bare)) else paragraph  # words that a line end parts


def _bare(line: str) -> str:
    return " ".join(BLOCK_ENDS.sub("", line).strip(DECORATION).split())


def _with_marks(comment: list[str], body: list[str]) -> list[str]:
    """Give a block comment that lost its first or last line its marks again."""
    first, last = comment[0].strip(), comment[-1].strip()
    for opening, closing in BLOCK_MARKS:
        if first.startswith(opening) and last.endswith(closing):
            head = [] if body[0].lstrip().startswith(opening) else [opening]
            tail = [] if body[-1].rstrip().endswith(closing) else [f" {closing}"]
            return [*head, *body, *tail]
    return body
