"""Bytes become text as they declare, or not at all."""

import pytest

from llama_cli.sources.decode import NotText, decode


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf_8_and_what_its_mark_declares_are_decoded(encoding: str) -> None:
    assert decode("Größe, 汉字".encode(encoding)) == "Größe, 汉字"


def test_a_coding_line_declares_an_encoding() -> None:
    text = "#!/usr/bin/python\n# -*- coding: latin-1 -*-\nname = 'Gödel'\n"
    assert decode(text.encode("latin-1")) == text


def test_a_coding_line_on_the_third_line_is_none() -> None:
    with pytest.raises(NotText, match="not_utf8"):
        decode("\n\n# coding: latin-1\nGödel".encode("latin-1"))


@pytest.mark.parametrize("name", ["no-such-codec", "hex", "utf-8", "ascii"])
def test_a_coding_line_that_does_not_help_leaves_the_file_undecoded(name: str) -> None:
    with pytest.raises(NotText, match="not_utf8"):
        decode(f"# coding: {name}\nGödel".encode("latin-1"))


def test_what_declares_nothing_is_not_guessed() -> None:
    with pytest.raises(NotText, match="not_utf8"):
        decode("Gödel".encode("latin-1"))


def test_a_nul_is_binary_and_none_in_utf_16() -> None:
    with pytest.raises(NotText, match="binary"):
        decode(b"GIF89a\0\1")
    assert decode("ab".encode("utf-16")) == "ab"


def test_line_ends_of_windows_become_those_of_unix() -> None:
    assert decode(b"a\r\nb\n") == "a\nb\n"
    assert decode(b"a\rb") == "a\rb"
