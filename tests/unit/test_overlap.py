"""N-grams of words: which rows of a benchmark a document has text of."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.errors import DataError, NotReadyError
from llama_cli.filters.contamination import keep_apart, read_benchmark
from llama_cli.overlap.grams import grams, grams_of
from llama_cli.overlap.index import build as index_of
from llama_cli.overlap.index import find
from llama_cli.overlap.rows import read_texts, strings
from llama_cli.overlap.words import WINDOW, plain, words
from llama_cli.records import Document, Rejected

DRAW = random.Random(0)
VOCABULARY = [f"w{number}" for number in range(5000)]


def text(count: int) -> str:
    return " ".join(DRAW.choices(VOCABULARY, k=count))


ROW = text(30)
PART = ROW.split()


def build(rows, n=13):
    return index_of([(0, row) for row in rows], n)


def rows_of(index, document: str) -> list[int]:
    overlap = find(index, document)
    return [] if overlap is None else list(overlap.rows)


# -- words --


def test_case_punctuation_and_the_kind_of_space_do_not_matter():
    assert plain("“Don't”\tpanic—Arthur,\n\nÉTÉ_2!") == "dont panicarthur été2".encode()
    spaced = words("“Don't”\tPANIC,\n Été!").tolist()
    assert spaced == words("dont panic e\u0301te\u0301").tolist()


def test_marks_go_alike_in_ascii_and_beside_other_letters():
    everything = "".join(map(chr, range(128)))
    assert words(everything).tolist() == words(everything + " ж").tolist()[:-1]


@given(st.lists(st.text("abcdefgh", min_size=1), max_size=30))
def test_words_that_differ_have_keys_that_differ(found):
    keys = words(" ".join(found)).tolist()
    assert len(keys) == len(found)
    assert len(set(keys)) == len(set(found))


def test_the_keys_of_a_long_text_are_those_of_its_words():
    long = " ".join(VOCABULARY)
    assert len(long) > 3 * WINDOW
    assert words(long).tolist() == [int(words(word)[0]) for word in VOCABULARY]


def test_a_word_longer_than_a_window_is_cut_and_not_lost():
    assert len(words("ж" * (2 * WINDOW + 1))) == 3
    assert len(words("")) == 0


def test_longer_grams_go_on_from_shorter_ones():
    items = words(text(20))
    each = [grams(items, n).tolist() for n in (2, 5, 13)]
    assert [keys.tolist() for keys in grams_of(items, [2, 5, 13])] == each
    assert len(set(sum(each, []))) == 19 + 16 + 8  # noqa: RUF017


# -- the rule --


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_none():
    index = build([[ROW]])
    assert rows_of(index, f"{text(50)} {' '.join(PART[9:22])} {text(50)}") == [0]
    assert rows_of(index, f"{text(50)} {' '.join(PART[9:21])} {text(50)}") == []


def test_an_overlap_in_other_case_and_punctuation_is_found():
    index = build([[ROW]])
    assert rows_of(index, '"' + ", ".join(PART[:13]).upper() + '!"') == [0]


def test_an_overlap_across_the_windows_of_a_document_is_found():
    index = build([[ROW]])
    before = "y" * (WINDOW - len(" ".join(PART[:7])) - 1)
    assert rows_of(index, f"{before} {' '.join(PART[:13])} {text(9)}") == [0]


def test_words_in_another_order_are_no_overlap():
    index = build([[ROW]])
    assert rows_of(index, " ".join(reversed(PART))) == []


@pytest.mark.parametrize(("length", "found"), [(7, []), (8, [0]), (12, [0])])
def test_a_short_text_is_found_whole_or_not_at_all(length, found):
    short = PART[:length]
    index = build([[" ".join(short)]])
    assert index.told.tolist() == [bool(found)]
    assert rows_of(index, f"{text(20)} {' '.join(short)} {text(20)}") == found
    assert rows_of(index, f"{text(20)} {' '.join(short[1:])} {text(20)}") == []


def test_the_texts_of_a_row_do_not_run_into_each_other():
    index = build([[" ".join(PART[:10]), " ".join(PART[10:20])]])
    assert rows_of(index, " ".join(PART[5:18])) == []
    assert rows_of(index, " ".join(PART[10:20])) == [0]


def test_a_gram_of_ten_rows_tells_of_each_and_one_of_eleven_of_none():
    form = text(13)
    for count, found in ((10, list(range(10))), (11, [])):
        index = build([[f"{form} {text(13)}"] for _ in range(count)])
        assert rows_of(index, form) == found
        assert index.told.all()  # by their own words


def test_the_rows_of_another_benchmark_do_not_make_a_gram_common():
    form = text(13)
    rows = [(part, [f"{form} {text(13)}"]) for part in (0, 1, 2) for _ in range(6 + 3 * part)]
    assert rows_of(index_of(rows), form) == list(range(6 + 9))  # of the third there are 12


def test_an_overlap_counts_the_grams_that_are_shared():
    index = build([[ROW]])
    overlap = find(index, " ".join(["x", *PART[:15]]))
    assert (overlap.grams, overlap.of) == (3, 4)


def test_no_row_is_found_in_text_that_has_nothing_of_it():
    index = build([[text(20)] for _ in range(500)])
    assert [rows_of(index, text(1000)) for _ in range(50)] == [[]] * 50


def test_every_planted_row_is_found_and_no_other():
    rows = [text(20) for _ in range(500)]
    index = build([[row] for row in rows])
    planted = DRAW.sample(range(500), 40)
    found = {at for row in planted for at in rows_of(index, f"{text(200)} {rows[row]} {text(99)}")}
    assert found == set(planted)


def test_an_index_of_nothing_finds_nothing():
    assert rows_of(build([]), ROW) == rows_of(build([["too short"]]), ROW) == []


# -- rows of files --


def test_rows_are_read_in_every_shape(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": {"stem": "one"}, "n": 1}\n\n{"q": ["two"]}\n')
    (tmp_path / "b.csv").write_text('q,a\n"three, and\nmore",4\n')
    (tmp_path / "c.tsv").write_text('five\t"six\n')
    (tmp_path / "d.json").write_text('[{"an answer": 1}]')
    (tmp_path / "e.json").write_text('{"version": 1, "data": [{"q": "seven"}]}')
    (tmp_path / "PROVENANCE.txt").write_text("not a row")
    found = [(name.rpartition("/")[2], texts) for _, name, texts in read_texts([tmp_path])]
    assert found == [
        ("a.jsonl:1", ["one"]),
        ("a.jsonl:3", ["two"]),
        ("b.csv:1", ["q", "a"]),
        ("b.csv:3", ["three, and\nmore", "4"]),
        ("c.tsv:1", ["five", '"six']),
        ("d.json:1", ["an answer"]),
        ("e.json:1", ["seven"]),
    ]


def test_a_file_that_has_no_rows_is_told(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"q": "one"}\n{oops\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not JSON"):
        list(read_texts([tmp_path / "bad.jsonl"]))
    with pytest.raises(NotReadyError, match="no file or directory"):
        list(read_texts([tmp_path / "none"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotReadyError, match="has no rows"):
        list(read_texts([tmp_path / "empty"]))


def test_numbers_and_one_word_keys_are_no_texts():
    assert list(strings({"label": 1, "a": None, "b": [True, "x"]})) == ["x"]


# -- the step --


def benchmark(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": ROW}) + "\n" + json.dumps({"question": "short"}) + "\n")
    return read_benchmark([path], 13), path


def test_a_document_is_marked_with_the_rows_it_has_text_of(tmp_path):
    rows, path = benchmark(tmp_path)
    document = Document("d", f"Look: {ROW}", "files", {"url": "u"})
    mark = {"rows": [f"{path}:1"], "ngrams": 18, "of": 19}
    marked = keep_apart(document, rows, remove=False)
    assert marked.metadata == {"url": "u", "contamination": mark}
    assert keep_apart(document, rows, remove=True) == Rejected(marked, "contamination", "overlap")


def test_a_document_that_has_none_is_passed_on_as_it_is(tmp_path):
    rows, _ = benchmark(tmp_path)
    document = Document("d", text(100), "files")
    assert keep_apart(document, rows, remove=True) is document


def test_grams_of_any_length_can_be_asked_for(tmp_path):
    index = build([[ROW]], 3)
    assert (index.n, index.short) == (3, [])
    assert rows_of(index, " ".join(PART[5:8])) == [0]
    with pytest.raises(ValueError, match="at least one word"):
        build([[ROW]], 0)


def test_keys_are_spread_over_all_bits():
    keys = grams(words(" ".join(VOCABULARY)), 2)
    ones = np.unpackbits(keys.view(np.uint8)).reshape(-1, 64).mean(0)
    assert abs(ones - 0.5).max() < 0.05
