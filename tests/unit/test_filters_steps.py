"""Steps, and the rules of code and length, at their boundaries."""

from llama_cli.filters import run_steps
from llama_cli.filters.code import count_alnum, drop_odd_lines
from llama_cli.filters.length import drop_short
from llama_cli.records import Document, Rejected


def doc(text: str) -> Document:
    return Document("d", text, "github")


def test_a_rejected_document_reaches_no_later_step() -> None:
    seen = []

    def remember(document: Document) -> Document:
        seen.append(document.text)
        return document

    items = [run_steps(doc(text), [drop_odd_lines, remember]) for text in ("ok", "####", "fine")]
    assert [type(item) for item in items] == [Document, Rejected, Document]
    assert seen == ["ok", "fine"]


def test_a_step_gets_what_the_step_before_made() -> None:
    def doubled(document: Document) -> Document:
        return doc(document.text * 2)

    assert run_steps(doc("ab"), [doubled, doubled]) == doc("abababab")


def test_a_line_over_the_limit_is_rejected_with_its_reason() -> None:
    long = doc("a" * 11)
    assert drop_odd_lines(long, max_line=10) == Rejected(long, "odd_lines", "long_line")


def test_a_line_at_the_limit_is_kept() -> None:
    assert drop_odd_lines(doc("a" * 10), max_line=10) == doc("a" * 10)


def test_the_paper_silent_limits_are_1000_100_and_a_quarter() -> None:
    assert drop_odd_lines(doc("x" * 1000 + "\n" * 20)) == doc("x" * 1000 + "\n" * 20)
    assert drop_odd_lines(doc("x" * 1001 + "\n" * 20)).reason == "long_line"
    assert drop_odd_lines(doc("x" * 101)).reason == "long_lines"
    assert drop_odd_lines(doc("ab" + "#" * 6)) == doc("ab" + "#" * 6)
    assert drop_odd_lines(doc("ab" + "#" * 7)).reason == "few_alnum"


def test_the_mean_does_not_count_the_empty_line_after_the_last_end() -> None:
    assert drop_odd_lines(doc("x" * 100 + "\n")) == doc("x" * 100 + "\n")
    assert drop_odd_lines(doc("x" * 101 + "\n")).reason == "long_lines"


def test_an_empty_file_has_no_odd_lines() -> None:
    assert drop_odd_lines(doc("")) == doc("")


def test_letters_of_every_script_count() -> None:
    text = "жук 3 ½ — 汉字…_"
    assert count_alnum(text) == sum(map(str.isalnum, text))


def test_a_document_without_text_is_empty_and_one_under_the_limit_too_short() -> None:
    assert drop_short(doc("")) == Rejected(doc(""), "length", "empty")
    assert drop_short(doc(" \n\t")).reason == "empty"
    assert drop_short(doc("ab"), min_characters=3).reason == "too_short"
    assert drop_short(doc("abc"), min_characters=3) == doc("abc")
