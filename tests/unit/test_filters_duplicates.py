"""Over the whole stream the first copy stays, in input order."""

import pytest

from llama_cli.filters import duplicates
from llama_cli.filters.duplicates import first_copies, prepare
from llama_cli.filters.held_out import hold_out, is_held_out
from llama_cli.filters.recipes import Settings, recipe
from llama_cli.records import Document, Rejected

SETTINGS = Settings(language="any", min_characters=5, min_sentences=1)


def run(*documents: Document) -> list[Document | Rejected]:
    return list(first_copies([prepare(d, SETTINGS) for d in documents], SETTINGS))


def web(name: str, text: str) -> Document:
    return Document(name, text, "common_crawl")


def test_the_first_of_equal_documents_stays_whatever_their_sources() -> None:
    first, copy = Document("a", "x = 1\n", "github"), Document("b", "x = 1\n", "files")
    assert run(first, copy) == [first, Rejected(copy, "duplicates", "exact")]


def test_documents_are_compared_after_cleaning() -> None:
    header = "# Copyright 2020 {}\nx = 1\n"
    one, other = (
        Document(name, header.format(name), "github", {"language": "Python"}) for name in "ab"
    )
    kept, dropped = run(one, other)
    assert isinstance(kept, Document)
    assert kept.text == "x = 1\n"
    assert isinstance(dropped, Rejected)
    assert (dropped.step, dropped.reason) == ("duplicates", "exact")


def test_a_paragraph_seen_before_goes_and_its_first_copy_stays() -> None:
    one = web("a", "Home page\nA story.")
    two = web("b", "HOME PAGE\n\nAnother story.\nhome page")
    assert run(one, two) == [one, web("b", "Another story.")]


def test_a_paragraph_that_a_document_repeats_goes_too() -> None:
    assert run(web("a", "A story.\nmore\na story.")) == [web("a", "A story.\nmore")]


def test_blank_lines_stay_but_for_those_around_what_goes() -> None:
    run_ = run(web("a", "Home page"), web("b", "one\n\nhome page\n\ntwo\n\nthree"))
    assert run_[1] == web("b", "one\n\ntwo\n\nthree")


def test_a_page_of_which_nothing_or_too_little_is_left_is_rejected_whole() -> None:
    one = web("a", "A story.\nThe end of it.")
    two, three = web("b", "a story.\n\nthe end of it."), web("c", "A story.\nfin")
    assert run(one, two, three) == [
        one,
        Rejected(two, "paragraphs", "all_seen"),
        Rejected(three, "paragraphs", "too_short"),
    ]


def test_lines_of_c4_go_and_its_sentences_are_counted_again() -> None:
    settings = Settings(language="any", min_sentences=2)
    rest = "This one is not seen.\nNor is this one here."
    one = Document("a", "One line has five words.\nOther lines have five words.", "c4")
    two = Document(
        "b", "one line has five words.\nThis one is not seen.\nNor is this one here.", "c4"
    )
    three = Document("c", "One line has five words.\nHere is one single sentence.", "c4")
    prepared = [prepare(d, settings) for d in (one, two, three)]
    assert list(first_copies(prepared, settings)) == [
        one,
        Document("b", rest, "c4"),
        Rejected(three, "paragraphs", "few_sentences"),
    ]


def test_what_is_left_of_a_page_may_be_a_copy() -> None:
    items = run(web("a", "A story."), web("b", "Home page"), web("c", "home page\nA story."))
    assert items[2] == Rejected(web("c", "home page\nA story."), "paragraphs", "all_seen")
    same = Document("d", "left over", "files")
    items = run(same, web("b", "Home page"), web("c", "home page\nleft over"))
    assert items[2] == Rejected(web("c", "left over"), "duplicates", "exact")


def test_lines_of_code_are_not_compared() -> None:
    one, two = (Document(n, f"import os\n{n} = 1\n", "github") for n in "ab")
    assert run(one, two) == [one, two]


def test_rejected_documents_keep_their_place() -> None:
    short, good = web("a", "abc"), web("b", "A story.")
    assert run(good, short, web("c", "Home page"))[1] == Rejected(short, "length", "too_short")


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    documents = [web(str(n), f"Home page\nStory {chr(97 + n % 5)} is told.") for n in range(20)]
    expected = run(*documents)
    monkeypatch.setattr(duplicates, "DOCUMENTS", size)
    assert run(*documents) == expected
    monkeypatch.setattr(duplicates, "CHARACTERS", size)
    assert run(*documents) == expected


def test_each_source_has_the_recipe_of_section_2_1() -> None:
    names = {
        source: [getattr(step, "func", step).__name__ for step in recipe(source, Settings()).steps]
        for source in ("common_crawl", "c4", "github", "wikipedia", "files", "anything")
    }
    assert names["common_crawl"] == ["drop_short", "keep_language"]
    assert names["c4"] == ["drop_short", "keep_language", "keep_sentences"]
    assert names["github"] == ["remove_header", "drop_short", "drop_odd_lines"]
    assert names["wikipedia"] == names["files"] == names["anything"] == ["drop_short"]


def test_a_share_of_documents_is_held_out_by_id_and_the_rest_passes() -> None:
    documents = [Document(str(n), "text", "files") for n in range(10_000)]
    rejected = Rejected(documents[0], "length", "empty")
    aside: list[Document] = []
    passed = list(hold_out([rejected, *documents], 0.01, aside.append))
    assert passed[0] is rejected
    assert len(aside) + len(passed) == 10_001
    assert 60 < len(aside) < 140  # 100 of 10,000, four standard deviations either way
    assert all(is_held_out(document.id, 0.01) for document in aside)
    assert all(is_held_out(document.id, 0.02) for document in aside)  # a larger share holds more
