"""Licences: names to SPDX, texts to names, and whether an expression is allowed.

The paper keeps "projects that are distributed under the Apache, BSD and MIT licenses"
(section 2.1). Names are SPDX identifiers (https://spdx.org/licenses); an expression is
allowed when every AND part and any OR part is. What is not recognised is "unknown", and
unknown is not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

UNKNOWN = "unknown"

# What packages write, reduced by `_key`, and what they mean. "Apache" without a version
# is 2.0: the others are older than the habit of stating a licence in metadata.
ALIASES = {
    **dict.fromkeys(("apache", "apache2", "apache20", "apachesoftware", "asl20"), "Apache-2.0"),
    **dict.fromkeys(("apachesoftware20", "apache20apache20"), "Apache-2.0"),
    **dict.fromkeys(("mit", "expat", "mitexpat"), "MIT"),
    "bsd": "BSD",
    **dict.fromkeys(("bsd2clause", "2clausebsd", "simplifiedbsd", "bsd2"), "BSD-2-Clause"),
    **dict.fromkeys(("bsd3clause", "3clausebsd", "newbsd", "modifiedbsd", "bsd3"), "BSD-3-Clause"),
    **dict.fromkeys(("isc", "iscl", "isciscl"), "ISC"),
    **dict.fromkeys(("mpl", "mpl20", "mozillapublic20", "mozillapublic20mpl20"), "MPL-2.0"),
    **dict.fromkeys(("psf", "psf20", "psf2", "pythonsoftwarefoundation"), "PSF-2.0"),
    **dict.fromkeys(("unlicense", "un", "theun"), "Unlicense"),
    **dict.fromkeys(("gpl", "gnugeneralpublicgpl", "gpl2", "gpl20", "gplv2", "gpl3"), "GPL"),
    **dict.fromkeys(("lgpl", "lgpl21", "lgpl3"), "LGPL"),
    "zlib": "Zlib",
    "0bsd": "0BSD",
    "cc010universalcc010publicdomaindedication": "CC0-1.0",
}
SPDX = (
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSL-1.0", "CC0-1.0"),
    *("CNRI-Python", "EPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only"),
    *(
        "GPL-3.0-or-later",
        "HPND",
        "ISC",
        "LGPL-2.1-or-later",
        "LGPL-3.0-or-later",
        "LLVM-exception",
    ),
    *("MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib"),
)

# Short phrases that only the text of one licence has, in the words that follow `_flat`.
TEXTS = (
    ("Apache-2.0", r"apache license,? version 2\.0"),
    ("MIT", r"permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("BSD-4-Clause", r"all advertising materials mentioning features"),
    ("BSD-3-Clause", r"(?<!advertising )neither the names? of|used to endorse or promote products"),
    ("BSD-2-Clause", r"redistributions? in binary form must reproduce"),
    ("0BSD", r"distribute this software for any purpose with or without fee is hereby granted\."),
    ("ISC", r"distribute this software for any purpose with or without fee is hereby granted, pro"),
    ("HPND", r"distribute this software and its documentation for any purpose"),
    ("GPL-2.0-only", r"gnu general public license version 2"),
    ("GPL-3.0-only", r"gnu general public license version 3"),
    ("AGPL-3.0-only", r"gnu affero general public license version 3"),
    ("LGPL-2.1-only", r"gnu (?:lesser|library) general public license version 2"),
    ("LGPL-3.0-only", r"gnu lesser general public license version 3"),
    ("MPL-2.0", r"mozilla public license,? version 2\.0"),
    ("EPL-2.0", r"eclipse public license - v 2\.0"),
    ("BSL-1.0", r"boost software license - version 1\.0"),
    ("PSF-2.0", r"python software foundation license version 2"),
    ("CC0-1.0", r"cc0 1\.0 universal"),
    ("Unlicense", r"free and unencumbered software released into the public domain"),
    ("Zlib", r"altered source versions must be plainly marked as such"),
)
_TEXTS = tuple((name, re.compile(phrase)) for name, phrase in TEXTS)
_BSD = ("BSD-4-Clause", "BSD-3-Clause", "BSD-2-Clause")  # each has the phrases of the next

FILE_NAME = re.compile(r"(?i)(?:un)?licen[sc]es?(?:[-._ ].*)?|copying(?:[-._ ].*)?")
TEXT_SUFFIX = re.compile(
    r"(?i).*\.(?:txt|md|rst|markdown)|[^.]*|.*[-.](?:apache|bsd|isc|lesser|l?gpl|mit|mpl|psf)\w*"
)
HEADER = re.compile(
    r"^[ \t]*(?:#|//|/?\*+|--|;+|%+|<!--|\.\.|!|\"|')[ \t]*SPDX-License-Identifier:[ \t]*([^\n]+)",
    re.MULTILINE,
)
NOTICES = (  # as their licences tell to write them, in the words that follow `_flat`
    ("GPL", "modify it under the terms of the gnu general public license"),
    ("LGPL", "modify it under the terms of the gnu lesser general public license"),
    ("LGPL", "modify it under the terms of the gnu library general public license"),
    ("AGPL", "modify it under the terms of the gnu affero general public license"),
    ("MPL-2.0", "subject to the terms of the mozilla public license"),
)
HEAD = 4096  # characters of a file in which its own identifier is looked for; ours


def is_licence_file(name: str) -> bool:
    """Tell whether a file of this name holds a licence.

    >>> [is_licence_file(name) for name in ("LICENSE-MIT", "COPYING", "license.py")]
    [True, True, False]
    """
    return bool(FILE_NAME.fullmatch(name) and TEXT_SUFFIX.fullmatch(name))


def spdx(name: str) -> str | None:
    """Normalise what a person wrote in a licence field, if it is a known name or expression.

    >>> spdx("Apache License, Version 2.0"), spdx("mit OR bsd-3-clause"), spdx("see LICENSE")
    ('Apache-2.0', 'MIT OR BSD-3-Clause', None)
    """
    if alias := ALIASES.get(_key(name)):
        return alias
    known = {each.casefold(): each for each in (*SPDX, "AND", "OR", "WITH", "(", ")")}
    words = [known.get(word.casefold()) for word in _words(name)]
    expression = " ".join(word or "" for word in words).replace("( ", "(").replace(" )", ")")
    return expression if words and None not in words and is_expression(expression) else None


def recognise(text: str) -> str:
    """Name the licences whose text this is, joined by AND, or "unknown".

    >>> recognise("Apache License\\n  Version 2.0, January 2004")
    'Apache-2.0'
    """
    flat = _flat(text)
    names = [name for name, phrase in _TEXTS if phrase.search(flat)]
    bsd = [name for name in names if name in _BSD]
    return join(name for name in names if name not in bsd[1:])


def join(names: Iterable[str]) -> str:
    """Join the licences that all hold for one thing; none at all is "unknown"."""
    return " AND ".join(sorted(set(names))) or UNKNOWN


def own_licence(text: str) -> str | None:
    """Find what a file says of itself: an SPDX-License-Identifier, or a copyleft notice.

    Packages under MIT carry files under the LGPL, and only the files say so.
    """
    head = text[:HEAD]
    if "SPDX-" in head and (found := HEADER.search(head)):
        expression = found[1].strip().removesuffix("*/").removesuffix("-->").strip()
        if is_expression(expression):
            return expression
    if "Public" in head:
        flat = _flat(head)
        return next((name for name, phrase in NOTICES if phrase in flat), None)
    return None


def is_expression(expression: str) -> bool:
    """Tell whether this is an SPDX licence expression."""
    try:
        allowed(expression, ())
    except ValueError:
        return False
    return True


def allowed(expression: str, names: Collection[str]) -> bool:
    """Tell whether every AND part and any OR part of an SPDX expression is in `names`.

    An exception (WITH) only widens a licence, so that the licence alone decides.

    >>> allowed("MIT AND (GPL-3.0-only OR BSD-3-Clause)", {"MIT", "BSD-3-Clause"})
    True

    Raises:
        ValueError: it is no licence expression.
    """
    words = _words(expression)
    held = _any_of(words, {name.casefold() for name in names})
    if words:
        raise ValueError(f"not a licence expression: {expression!r}")
    return held


def _words(expression: str) -> list[str]:
    return re.findall(r"[()]|[^\s()]+", expression)


def _any_of(words: list[str], names: Collection[str]) -> bool:
    held = _all_of(words, names)
    while words and words[0].upper() == "OR":
        del words[0]
        held = _all_of(words, names) or held
    return held


def _all_of(words: list[str], names: Collection[str]) -> bool:
    held = _one(words, names)
    while words and words[0].upper() == "AND":
        del words[0]
        held = _one(words, names) and held
    return held


def _one(words: list[str], names: Collection[str]) -> bool:
    word = words.pop(0) if words else ""
    if word == "(":
        held = _any_of(words, names)
        if not words or words.pop(0) != ")":
            raise ValueError("a licence expression lacks a closing parenthesis")
        return held
    if not re.fullmatch(r"[\w.+:-]+", word) or word.upper() in ("AND", "OR", "WITH"):
        raise ValueError("not a licence expression")
    if words and words[0].upper() == "WITH":
        del words[:2]
    return word.casefold() in names


def _key(name: str) -> str:
    return re.sub(r"\b(?:the|licen[sc]e|version)\b|[^a-z0-9]", "", name.casefold())


def _flat(text: str) -> str:
    """Lower the case, and make one space of each run of spaces, comment marks and quotes."""
    return re.sub(r"[\s#*/;\"'“”()]+", " ", text.casefold())
