"""Licence headers go; what only looks like one, or stands beside one, stays."""

import pytest

from llama_cli.filters.headers import remove_header, without_header
from llama_cli.records import Document

APACHE = [
    "Copyright 2019 The Example Authors.",
    "",
    'Licensed under the Apache License, Version 2.0 (the "License");',
    "you may not use this file except in compliance with the License.",
    "You may obtain a copy of the License at",
    "",
    "    http://www.apache.org/licenses/LICENSE-2.0",
    "",
    "Unless required by applicable law or agreed to in writing, software",
    'distributed under the License is distributed on an "AS IS" BASIS,',
    "WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.",
    "See the License for the specific language governing permissions and",
    "limitations under the License.",
]
BSD = [
    "Copyright (c) 2001, A. Nyone. All rights reserved.",
    "",
    "Redistribution and use in source and binary forms, with or without",
    "modification, are permitted provided that the following conditions are met:",
    "",
    "1. Redistributions of source code must retain the above copyright",
    "   notice, this list of conditions and the following disclaimer.",
    "2. Neither the name of the author nor the names of its contributors may be",
    "   used to endorse or promote products derived from this software.",
    "",
    'THIS SOFTWARE IS PROVIDED BY THE AUTHOR "AS IS" AND ANY WARRANTIES OF',
    "MERCHANTABILITY ARE DISCLAIMED.",
]
MIT = [
    "The MIT License",
    "",
    "Copyright (c) 2010 A. Nyone",
    "",
    "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "of this software, subject to the following conditions:",
    "",
    "The above copyright notice and this permission notice shall be included in",
    "all copies or substantial portions of the Software.",
    "",
    'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND.',
]
GPL = [
    "This file is part of Example.",
    "",
    "Example is free software; you can redistribute it and/or modify it under",
    "the terms of the GNU General Public License.",
    "",
    "You should have received a copy of the GNU General Public License.",
]


def lines(mark: str, text: list[str]) -> str:
    return "\n".join(f"{mark} {line}".rstrip() for line in text)


def block(text: list[str]) -> str:
    return "/*\n" + lines(" *", text) + "\n */"


@pytest.mark.parametrize("licence", [APACHE, BSD, MIT, GPL])
@pytest.mark.parametrize(
    ("language", "mark", "code"),
    [
        ("Python", "#", "import os\n"),
        ("Shell", "#", "echo hello\n"),
        ("Rust", "//", "#![no_std]\n"),
        ("Lua", "--", "local x = 1\n"),
        ("Emacs Lisp", ";;", "(provide 'x)\n"),
        ("TeX", "%", "\\section{One}\n"),
    ],
)
def test_a_header_of_line_comments_goes(
    licence: list[str], language: str, mark: str, code: str
) -> None:
    assert without_header(f"{lines(mark, licence)}\n\n{code}", language) == code


@pytest.mark.parametrize("licence", [APACHE, BSD, MIT, GPL])
def test_a_header_in_a_block_comment_goes_and_include_stays(licence: list[str]) -> None:
    code = "#include <stdio.h>\n#define COPYRIGHT 1\nint x;\n"
    assert without_header(f"{block(licence)}\n\n{code}", "C") == code


def test_a_header_goes_where_the_language_is_not_known_but_never_by_a_hash() -> None:
    assert without_header(f"{block(MIT)}\nint x;\n") == "int x;\n"
    titled = "# Copyright 2020 and other titles\n\ntext\n"
    assert without_header(titled) == titled


def test_a_shebang_and_an_encoding_line_stay() -> None:
    top = "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n"
    assert without_header(f"{top}{lines('#', APACHE)}\n\nimport os\n", "Python") == (
        f"{top}\nimport os\n"
    )


def test_an_opening_php_tag_stays() -> None:
    assert without_header(f"<?php\n{block(MIT)}\n$x = 1;\n", "PHP") == "<?php\n$x = 1;\n"


def test_a_markdown_title_stays() -> None:
    text = "# Copyright and licence\n\nThis tells how we license.\n"
    assert without_header(text, "Markdown") == text


def test_an_html_comment_in_markdown_goes() -> None:
    text = f"<!--\n{chr(10).join(MIT)}\n-->\n\n# Title\n"
    assert without_header(text, "Markdown") == "# Title\n"


def test_what_a_header_says_about_the_file_stays() -> None:
    text = f"{lines('#', ['Sort words by length.', '', *MIT])}\n\nimport os\n"
    assert without_header(text, "Python") == "# Sort words by length.\n\nimport os\n"


def test_lines_before_the_first_legal_one_of_a_paragraph_stay() -> None:
    text = "// sort.go sorts words.\n// Copyright 2020 A. Nyone\n\npackage sort\n"
    assert without_header(text, "Go") == "// sort.go sorts words.\n\npackage sort\n"


def test_a_block_comment_that_keeps_a_paragraph_keeps_its_marks() -> None:
    text = "/* Copyright 2020 A. Nyone\n *\n * Sorts words.\n */\nint x;\n"
    assert without_header(text, "C") == "/*\n * Sorts words.\n */\nint x;\n"
    text = "/*\n * Sorts words.\n *\n * Copyright 2020 A. Nyone */\nint x;\n"
    assert without_header(text, "C") == "/*\n * Sorts words.\n */\nint x;\n"


def test_a_second_header_goes_too() -> None:
    text = f"// Copyright 2020 A. Nyone\n\n{block(BSD)}\nint x;\n"
    assert without_header(text, "C++") == "int x;\n"


def test_a_comment_without_legal_words_stays() -> None:
    text = "/* Reads a word. */\n// licensee counts\nint copyright;\n"
    assert without_header(text, "C") == text


def test_a_comment_further_down_stays() -> None:
    text = "import os\n# Copyright 2020 A. Nyone\n"
    assert without_header(text, "Python") == text


def test_a_block_comment_that_code_follows_or_that_never_ends_stays() -> None:
    for text in ("/* Copyright 2020 */ int x;\n", "/* Copyright 2020\nint x;\n"):
        assert without_header(text, "C") == text


def test_a_file_that_is_only_a_header_becomes_empty() -> None:
    assert without_header(lines("#", APACHE) + "\n", "Python").strip() == ""


def test_the_language_comes_from_the_metadata() -> None:
    text = "# Copyright 2020 A. Nyone\nimport os\n"
    python = Document("a.py", text, "github", {"language": "Python"})
    assert remove_header(python).text == "import os\n"
    assert remove_header(Document("a", text, "github")).text == text


def test_a_document_without_legal_words_is_the_same_object() -> None:
    document = Document("a.py", "# sorts words\nimport os\n", "github", {"language": "Python"})
    assert remove_header(document) is document
