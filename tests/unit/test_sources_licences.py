"""Licences by name, by text, by expression and by a file's own words."""

import pytest

from llama_cli.sources import licences
from llama_cli.sources.licences import allowed, is_licence_file, own_licence, recognise, spdx

MIT = """The MIT License (MIT)

Permission is hereby granted, free of charge, to any person obtaining a copy of this
software ... The above copyright notice and this permission notice shall be included"""
BSD_2 = """Redistribution and use in source and binary forms are permitted.
 * Redistributions in binary form must reproduce the above copyright notice"""
BSD_3 = f"{BSD_2}\n * Neither the name of the author nor the names of its contributors"
BSD_4 = f"{BSD_3}\n * All advertising materials mentioning features of this software"
ISC = """Permission to use, copy, modify, and/or distribute this software for any purpose with
or without fee is hereby granted, provided that the above copyright notice"""
GPL = """                    GNU GENERAL PUBLIC LICENSE
                       Version 3, 29 June 2007
... use the GNU Lesser General Public License instead of this License."""
PSF = "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        (MIT, "MIT"),
        (BSD_2, "BSD-2-Clause"),
        (BSD_3, "BSD-3-Clause"),
        (BSD_4, "BSD-4-Clause"),
        (ISC, "ISC"),
        (ISC.replace(", provided that", "."), "0BSD"),
        (GPL, "GPL-3.0-only"),
        (GPL.replace("GENERAL", "LESSER GENERAL"), "LGPL-3.0-only"),
        ("Mozilla Public License Version 2.0", "MPL-2.0"),
        (PSF, "PSF-2.0"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        (f"{MIT}\n\n{BSD_3}", "BSD-3-Clause AND MIT"),
        ("All rights reserved. Ask us first.", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_text_of_a_licence_is_recognised(text: str, name: str) -> None:
    assert recognise(text) == name


def test_a_licence_in_comments_is_recognised_too() -> None:
    assert recognise("\n".join(f"# {line}" for line in MIT.split("\n"))) == "MIT"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache 2.0", "Apache-2.0"),
        ("The MIT License", "MIT"),
        ("BSD 3-Clause License", "BSD-3-Clause"),
        ("New BSD", "BSD-3-Clause"),
        ("BSD", "BSD"),
        ("mpl-2.0 and mit", "MPL-2.0 AND MIT"),
        ("(MIT OR Apache-2.0) AND ISC", "(MIT OR Apache-2.0) AND ISC"),
        ("LICENSE.txt", None),
        ("MIT AND", None),
        ("", None),
    ],
)
def test_what_people_write_becomes_an_spdx_name(written: str, name: str | None) -> None:
    assert spdx(written) == name


@pytest.mark.parametrize(
    ("expression", "held"),
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("Apache-2.0 AND BSD-3-Clause", True),
        ("Apache-2.0 AND Zlib", False),
        ("Zlib OR MIT", True),
        ("MIT AND Zlib OR BSD-3-Clause", True),
        ("MIT AND (Zlib OR GPL-3.0-only)", False),
        ("(MIT OR Zlib) AND Apache-2.0 WITH LLVM-exception", True),
    ],
)
def test_every_and_part_and_any_or_part_must_be_allowed(expression: str, held: bool) -> None:
    assert allowed(expression, {"Apache-2.0", "BSD-3-Clause", "MIT"}) is held


@pytest.mark.parametrize("words", ["", "MIT OR", "(MIT", "MIT ISC", "MIT AND AND ISC", "a|b", ")"])
def test_what_is_no_expression_is_an_error(words: str) -> None:
    with pytest.raises(ValueError, match="licence expression"):
        allowed(words, {"MIT"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        ("#!/bin/sh\n// SPDX-License-Identifier: GPL-2.0-only OR MIT\n", "GPL-2.0-only OR MIT"),
        ("/* SPDX-License-Identifier: BSD-3-Clause */", "BSD-3-Clause"),
        ("<!-- SPDX-License-Identifier: MIT -->", "MIT"),
        ("print('SPDX-License-Identifier: MIT')", None),
        ("# SPDX-License-Identifier: whatever you like | or not", None),
        ("x = 1\n" * 2000 + "# SPDX-License-Identifier: MIT\n", None),
        ("import os\n", None),
    ],
)
def test_a_file_names_its_own_licence_in_a_comment_at_its_top(text: str, name: str | None) -> None:
    assert own_licence(text) == name


def test_a_copyleft_notice_counts_as_the_licence_of_its_file() -> None:
    notice = """# This library is free software; you can redistribute it and/or
# modify it under the terms of the GNU Lesser General Public
# License as published by the Free Software Foundation"""
    assert own_licence(notice) == "LGPL"
    assert own_licence("# Published by the Public Library") is None


@pytest.mark.parametrize(
    "name", ["LICENSE", "licence.md", "COPYING.LESSER", "LICENSE-MIT", "UNLICENSE"]
)
def test_a_licence_file_is_known_by_its_name(name: str) -> None:
    assert is_licence_file(name)


@pytest.mark.parametrize(
    "name", ["license.py", "licensing.txt", "copying.c", "README", "my-license"]
)
def test_other_files_are_none(name: str) -> None:
    assert not is_licence_file(name)


def test_nothing_known_is_unknown_and_never_allowed() -> None:
    assert licences.join([]) == licences.UNKNOWN
    assert not allowed(licences.UNKNOWN, {"MIT"})
