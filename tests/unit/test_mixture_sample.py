"""The order of a mixture: in proportion at every point, and computable from any point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.mixture.sample import counts, due, permutation, window
from llama_cli.mixture.table import TABLE

PAPER = [row.proportion / 100 for row in TABLE.values()]
WEIGHTS = st.lists(st.floats(1e-3, 1), min_size=1, max_size=7).map(
    lambda values: [value / sum(values) for value in values]
)


def test_the_stream_is_the_merge_of_deadlines():
    # (k + 1/2) / w: source 0 at 1, 3, 5; source 1 at 2, 6
    assert window([0.5, 0.25], 0, 5)[0].tolist() == [0, 1, 0, 0, 1]


def test_sources_that_fall_due_together_come_in_their_order():
    sources, items = window([0.5, 0.5], 0, 4)
    assert sources.tolist() == [0, 1, 0, 1]
    assert items.tolist() == [0, 0, 1, 1]


def test_each_source_is_within_two_items_of_its_share_everywhere():
    sources, _ = window(PAPER, 0, 50_000)
    so_far = np.arange(1, 50_001)
    for number, weight in enumerate(PAPER):
        assert np.abs(np.cumsum(sources == number) - weight * so_far).max() < 2


@settings(deadline=None, max_examples=50)
@given(WEIGHTS, st.integers(0, 10**6), st.integers(0, 99), st.integers(0, 99))
def test_any_window_equals_that_stretch_of_a_longer_one(weights, start, before, size):
    sources, items = window(weights, start, start + before + size)
    part = window(weights, start + before, start + before + size)
    assert part[0].tolist() == sources[before:].tolist()
    assert part[1].tolist() == items[before:].tolist()


@settings(deadline=None, max_examples=50)
@given(WEIGHTS, st.integers(0, 300))
def test_the_stream_takes_each_item_of_each_source_once_and_in_order(weights, stop):
    sources, items = window(weights, 0, stop)
    assert len(sources) == stop
    for number, count in enumerate(counts(weights, stop)):
        assert items[sources == number].tolist() == list(range(count))


# the last two are where w * t - 1/2 rounds up, and down, past a whole number
@pytest.mark.parametrize(
    ("weight", "item"),
    [(1 / 3, 0), (0.67, 10**9), (0.7261514249001283, 928_291), (0.3333333333333333, 562_482)],
)
def test_an_item_is_due_after_its_deadline_and_not_at_it(weight, item):
    deadline = (item + 0.5) / weight
    assert due([weight], deadline) == [item]
    assert due([weight], math.nextafter(deadline, math.inf)) == [item + 1]


def test_the_paper_s_own_run_can_be_counted_without_walking_it():
    sequences = 1_330_000_000_000 // 2048
    drawn = counts(PAPER, sequences)
    assert sum(drawn) == sequences
    assert drawn == pytest.approx([weight * sequences for weight in PAPER], abs=2)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3000), st.text(max_size=5))
def test_a_permutation_has_every_number_once(count, key):
    assert np.sort(permutation(count, key)).tolist() == list(range(count))


def test_the_same_key_gives_the_same_order_and_another_key_another():
    assert permutation(1000, "0 books 0").tolist() == permutation(1000, "0 books 0").tolist()
    assert permutation(1000, "0 books 0").tolist() != permutation(1000, "0 books 1").tolist()


def test_the_order_does_not_change_between_versions():
    # written down once: a change here makes every mixture another, and needs a Results line
    assert permutation(8, "0 books 0").tolist() == [3, 2, 6, 1, 5, 4, 7, 0]


def test_a_shuffle_leaves_few_numbers_near_their_place():
    order = permutation(10_000, "0 c4 0")
    assert np.abs(order - np.arange(10_000)).mean() == pytest.approx(10_000 / 3, rel=0.05)
    assert (order == np.arange(10_000)).sum() < 8  # 1 is expected
