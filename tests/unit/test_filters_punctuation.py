"""C4's rules one by one, each at its boundary (c4_utils.py of TensorFlow Datasets)."""

import pytest

from llama_cli.filters.punctuation import count_sentences, drop_few_sentences, keep_sentences
from llama_cli.records import Document, Rejected

GOOD = ["This line has five words.", "Here are another five words!", "Is this a third sentence?"]


def page(*lines: str) -> Document:
    return Document("p", "\n".join(lines), "c4")


def kept(*lines: str) -> list[str]:
    result = keep_sentences(page(*lines))
    assert isinstance(result, Document), result.reason
    return result.text.split("\n")


def reason(*lines: str) -> str:
    result = keep_sentences(page(*lines))
    assert isinstance(result, Rejected)
    assert result.step == "c4"
    return result.reason


def test_lines_that_end_like_sentences_stay() -> None:
    assert kept(*GOOD, 'She said "it is quite enough"') == [*GOOD, 'She said "it is quite enough"']


@pytest.mark.parametrize(
    "line",
    [
        "This line has no end mark",
        "This line trails off somewhere...",
        "Only four words here.",
        "Please enable JavaScript in your browser.",
        "By browsing you accept our privacy policy.",
        "By browsing you accept our Cookie Policy.",
        "By browsing you accept our terms of use.",
        "As you know this site uses cookies.",
        "As you know we use cookies here.",
        "As you know of our use of cookies.",
        "A word too long to keep is " + "x" * 1001 + ".",
    ],
)
def test_a_line_that_is_none_goes_and_the_page_stays(line: str) -> None:
    assert kept(*GOOD, line) == GOOD


def test_a_word_of_a_thousand_characters_stays() -> None:
    line = "A word just short enough is " + "x" * 999 + "."
    assert kept(*GOOD, line) == [*GOOD, line]


def test_three_sentences_are_enough_and_two_are_not() -> None:
    assert kept(*GOOD) == GOOD
    assert reason(*GOOD[:2]) == "few_sentences"


def test_citations_go_before_the_end_mark_is_looked_for() -> None:
    assert kept(*GOOD[:2], "It was found in the sea.[12][edit][citation needed]") == [
        *GOOD[:2],
        "It was found in the sea.",
    ]


def test_a_brace_or_placeholder_text_in_a_kept_line_drops_the_page() -> None:
    assert reason(*GOOD, "Then call the function {x} twice.") == "curly_bracket"
    assert reason(*GOOD, "Lorem ipsum dolor sit amet.") == "lorem_ipsum"


def test_a_brace_in_a_line_that_goes_anyway_does_no_harm() -> None:
    assert kept(*GOOD, "function() {") == GOOD
    assert kept(*GOOD, "Without JavaScript {x} will not work.") == GOOD


def test_a_page_over_190_000_characters_is_dropped() -> None:
    text = " ".join(["word"] * 37_998) + " abcdefghi."  # 190,000 characters
    assert len(text) == 190_000
    assert reason(*[text]) == "few_sentences"
    assert reason(text + "!") == "too_long"


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("One. Two. Three.", 3),
        ("Dr. Who met J. R. Smith, e.g. on Jan. 5.", 1),
        ("It costs 3.50 or so. Cheap!", 2),
        ('"Stop!" he cried. "Why?" (She ran.) Then 9 people came.', 4),
        ("What?! No. really", 2),
        ("Über alles. Ärger.", 2),
        ("", 0),
    ],
)
def test_sentences_are_counted_as_a_reader_would(line: str, number: int) -> None:
    assert count_sentences(line) == number


def test_a_page_is_counted_again_when_lines_are_gone() -> None:
    assert drop_few_sentences(page(*GOOD)) == page(*GOOD)
    assert drop_few_sentences(page(*GOOD[:2])).reason == "few_sentences"


def test_a_page_of_fewer_sentences_is_kept_when_asked() -> None:
    assert keep_sentences(page(GOOD[0]), min_sentences=1) == page(GOOD[0])
    assert keep_sentences(page("Four words are here."), min_words=4, min_sentences=1) == page(
        "Four words are here."
    )
