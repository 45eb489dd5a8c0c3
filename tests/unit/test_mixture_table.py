"""Table 1 as data, and the weights that a corpus gets from it."""

from __future__ import annotations

import pytest

from llama_cli.errors import LlamaError
from llama_cli.mixture.pack import Share
from llama_cli.mixture.report import differences, repeated, table
from llama_cli.mixture.table import PAPER_TOKENS, TABLE
from llama_cli.mixture.weights import Weights, choose


def test_the_proportions_of_table_1_sum_to_100_percent():
    assert sum(row.proportion for row in TABLE.values()) == 100
    assert [row.proportion for row in TABLE.values()] == [67, 15, 4.5, 4.5, 4.5, 2.5, 2]


@pytest.mark.parametrize(
    ("source", "billions", "bytes_per_token"),
    [
        ("common_crawl", 852.7, 3.87),
        ("c4", 198.1, 3.95),
        ("github", 98.4, 3.33),
        ("wikipedia", 25.7, 3.23),
        ("books", 28.3, 3.01),
        ("arxiv", 33.0, 2.79),
        ("stack_exchange", 27.2, 2.87),
    ],
)
def test_the_rows_of_table_1_agree_with_each_other(source, billions, bytes_per_token):
    row = TABLE[source]
    assert row.unique_tokens / 1e9 == pytest.approx(billions, abs=0.06)
    assert row.disk / row.unique_tokens == pytest.approx(bytes_per_token, abs=0.006)


def test_table_1_holds_1263_billion_unique_tokens():
    total = sum(row.unique_tokens for row in TABLE.values())
    assert total / 1e9 == pytest.approx(1263.4, abs=0.1)
    assert PAPER_TOKENS == 1.4e12


def test_with_all_seven_sources_the_weights_are_table_1s():
    chosen = choose(dict.fromkeys(TABLE, 10))
    assert chosen.of == pytest.approx({name: row.proportion / 100 for name, row in TABLE.items()})
    assert (chosen.lacking, chosen.left_out, chosen.by_size) == ([], [], [])


def test_a_source_that_the_input_lacks_is_left_out_and_the_rest_renormalised():
    chosen = choose({"books": 5, "arxiv": 90})
    assert chosen.of == pytest.approx({"books": 4.5 / 7, "arxiv": 2.5 / 7})
    assert chosen.lacking == ["common_crawl", "c4", "github", "wikipedia", "stack_exchange"]


def test_a_source_of_empty_documents_counts_as_lacking():
    assert choose({"books": 0, "arxiv": 9}).of == {"arxiv": 1.0}


def test_a_source_outside_the_table_weighs_its_share_of_the_tokens():
    chosen = choose({"files": 25, "books": 25, "arxiv": 50})
    assert chosen.of == pytest.approx({"files": 1 / 4, "books": 27 / 56, "arxiv": 15 / 56})
    assert chosen.by_size == ["files"]


def test_only_sources_outside_the_table_are_mixed_by_size():
    assert choose({"files": 30, "mail": 10}).of == {"files": 0.75, "mail": 0.25}


def test_asked_weights_replace_the_table_in_any_unit():
    chosen = choose({"books": 1, "files": 1, "arxiv": 1}, {"books": 3, "files": 1, "c4": 4})
    assert chosen.of == {"books": 0.75, "files": 0.25}
    assert (chosen.lacking, chosen.left_out) == (["c4"], ["arxiv"])


def test_a_weight_of_0_leaves_a_source_out():
    chosen = choose({"books": 1, "arxiv": 1}, {"books": 0, "arxiv": 1})
    assert (chosen.of, chosen.left_out) == ({"arxiv": 1.0}, ["books"])


@pytest.mark.parametrize(
    ("tokens", "asked"), [({}, None), ({"c4": 0}, None), ({"c4": 1}, {"x": 1})]
)
def test_no_source_at_all_is_an_error(tokens, asked):
    with pytest.raises(LlamaError, match="nothing to mix"):
        choose(tokens, asked)


def test_the_table_has_a_line_a_source():
    lines = table([Share("books", 0.25, 1_000, 2_048), Share("c4", 0.75, 10_000, 6_144)])
    assert [line.split() for line in lines[1:]] == [
        ["books", "25.00%", "1,000", "2,048", "2.05"],
        ["c4", "75.00%", "10,000", "6,144", "0.61"],
    ]


def test_the_fourth_epoch_is_fine_and_the_fifth_is_not():
    assert repeated([Share("books", 1.0, 100, 400)]) == []
    (line,) = repeated([Share("books", 1.0, 100, 401)])
    assert line.startswith("repeats books 4.0 times; past 4 epochs")


def test_nothing_is_said_about_a_mixture_as_asked():
    assert differences(Weights({"books": 1.0})) == []


def test_each_difference_is_one_line():
    lines = differences(Weights({"files": 1.0}, ["c4"], ["mail"], ["files"]))
    assert len(lines) == 3
    assert [line.split(" ")[1] for line in lines] == ["c4", "out", "files"]
