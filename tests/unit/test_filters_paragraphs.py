"""Keys of paragraphs: what CCNet and C4 take for the same line is the same."""

import re
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from llama_cli.filters.paragraphs import CCNET_SEED, PUNCTUATION, c4_keys, ccnet_keys

EMPTY = b"\0" * 8


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  Hello World ", "hello world"),
        ("Call 555-0199", "call 000-0000"),
        ("He said \u201cno\u201d\u2026", "he said no"),
        ("tab\there", "tabhere"),
        ("\u0663 \u00dcber", "0 \u00fcber"),  # an Arabic digit; a non-ASCII letter
        ("a\x7f\x9fb\u00e9", "ab\u00e9"),
    ],
)
def test_ccnet_does_not_tell_these_lines_apart(one: str, other: str) -> None:
    assert ccnet_keys(one) == ccnet_keys(other)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("a.", "a"), ("\u00e9", "e")])
def test_ccnet_tells_these_apart(one: str, other: str) -> None:
    assert ccnet_keys(one) != ccnet_keys(other)


def test_a_text_has_a_key_a_line_and_zero_where_nothing_is_left() -> None:
    assert len(ccnet_keys("a\nb\n\nc")) == 4 * 8
    assert ccnet_keys("a\n \n\u2026")[8:] == EMPTY * 2
    assert ccnet_keys("") == EMPTY


def test_ccnet_removes_34_marks() -> None:
    assert len(set(PUNCTUATION)) == 34
    # one of them is a full-width digit, which is a digit first
    assert ccnet_keys(PUNCTUATION) == ccnet_keys("0")


def test_the_same_line_has_the_same_key_among_ascii_and_other_lines() -> None:
    assert ccnet_keys("one\ntwo")[:8] == ccnet_keys("one\nzw\u00f6lf")[:8]


def test_c4_only_strips_and_lowers() -> None:
    assert c4_keys(" Hello ") == c4_keys("hello")
    assert c4_keys("1") != c4_keys("2")
    assert c4_keys("hello") != ccnet_keys("hello")  # the two do not meet in one table


def ccnet_normal_form(line: str) -> str:
    """CCNet's definition, line by line and character by character."""
    line = re.sub(r"\d", "0", line.strip().lower())
    control = {chr(code) for code in (*range(32), *range(127, 160))}
    return "".join(letter for letter in line if letter not in control | set(PUNCTUATION))


@given(st.text(st.sampled_from("aA1\u0663\u00df\u03a3 .\t\x1c\x7f\x85\u2026\u201c\n")))
def test_whole_texts_are_normalised_as_ccnet_does_line_by_line(text: str) -> None:
    lines = [ccnet_normal_form(line).encode() for line in text.split("\n")]
    keys = [xxh3_64_intdigest(line, seed=CCNET_SEED) if line else 0 for line in lines]
    assert ccnet_keys(text) == array("Q", keys).tobytes()
