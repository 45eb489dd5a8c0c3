"""Rows that share pages hold what they would hold without sharing, and no page is lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llama_cli.inference import pages
from llama_cli.inference.backend import Piece, take_over
from llama_cli.inference.pages import Pages
from llama_cli.kernels.host import PAGE, address
from tests.unit.test_host import IDS, ODD, made

SMALL = replace(ODD, layers=1)
SLOTS, LENGTH = 4, 5 * PAGE
slots, lengths = st.integers(0, SLOTS - 1), st.integers(0, LENGTH)


class Rows(RuleBasedStateMachine):
    """Beside `Pages`, rows that never share: of each place, the mark that was written there."""

    SIZE = 4 * Pages(ODD).floats

    def __init__(self) -> None:
        super().__init__()
        self.small = mock.patch.object(pages, "CHUNK", 12 * self.SIZE)
        self.small.start()  # twelve pages at a time, so that more are asked for
        self.pages = Pages(ODD)
        self.pages.grow(1, 1)
        self.pages.grow(SLOTS, LENGTH)
        self.rows: list[list[int]] = [[] for _ in range(SLOTS)]
        self.mark = 0

    def teardown(self) -> None:
        self.small.stop()

    def page_of(self, slot: int, place: int) -> np.ndarray:
        page = self.pages._own[slot][place // PAGE]
        assert self.pages.table_SP[slot, place // PAGE] == address(self.pages._at[page])
        return self.pages._at[page]

    @rule(slot=slots, start=lengths, count=lengths)
    def write(self, slot: int, start: int, count: int) -> None:
        """Take new tokens from a place on, as a step does: what came after it is gone."""
        start = min(start, len(self.rows[slot]))
        end = min(start + count, LENGTH)
        self.pages.fill(slot, start, end)
        self.rows[slot] = self.rows[slot][:start]
        for place in range(start, end):
            self.mark += 1
            self.page_of(slot, place)[place % PAGE] = self.mark
            self.rows[slot].append(self.mark)

    @rule(source=slots, to=slots, count=lengths)
    def copy(self, source: int, to: int, count: int) -> None:
        count = min(count, len(self.rows[source]))
        self.pages.copy(source, to, count)
        if source != to:
            self.rows[to] = self.rows[source][:count]

    @rule(slot=slots)
    def drop(self, slot: int) -> None:
        self.pages.drop(slot)
        self.rows[slot] = []

    @invariant()
    def each_row_holds_its_own(self) -> None:
        for slot, row in enumerate(self.rows):
            found = [self.page_of(slot, at)[at % PAGE].item() for at in range(len(row))]
            assert found == row

    @invariant()
    def a_page_has_the_users_that_it_counts(self) -> None:
        held = Counter(page for own in self.pages._own for page in own)
        free = self.pages._free
        assert len(set(free)) == len(free)
        assert held.keys().isdisjoint(free)
        assert len(held) + len(free) == len(self.pages._at)
        assert [held[page] for page in range(len(self.pages._at))] == self.pages._users


Rows.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
TestRows = Rows.TestCase


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(slots, slots, lengths, st.integers(1, 20)), max_size=12))
def test_states_of_rows_that_share_are_the_bits_of_rows_that_do_not(
    steps: list[tuple[int, int, int, int]],
) -> None:
    """Each step takes the beginning of one row for another, which goes on its own way."""
    network, rows = take_over(made(SMALL)), [[] for _ in range(SLOTS)]
    shared = network.cache()
    shared.grow(SLOTS, LENGTH)
    for number, (source, to, begin, count) in enumerate(steps):
        start = min(begin, len(rows[source]))
        new = IDS[number : number + min(count, LENGTH - start)]
        shared.copy(source, to, start)
        rows[to] = rows[source][:start] + new
        found = network.states(new, [Piece(to, start, len(new))], shared)
        alone = network.cache()
        alone.grow(1, LENGTH)
        wanted = network.states(rows[to], [Piece(0, 0, len(rows[to]))], alone)
        assert np.array_equal(found, wanted[start:])


def test_memory_that_is_not_there_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Pages(ODD)
    held.grow(1, LENGTH)
    with monkeypatch.context() as short:
        short.setattr(pages.np, "zeros", mock.Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            held.fill(0, 0, 20)
    held.fill(0, 0, 20)
    assert held.table_SP[0, :2].tolist() == [*map(address, held._at[:2])]
