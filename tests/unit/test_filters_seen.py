"""The table of keys against Python's own set, and its size."""

import numpy as np
import pytest

from llama_cli.filters.seen import MOVED, SLOTS, START, Seen

rng = np.random.default_rng(0)


def keys(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_a_key_is_new_once() -> None:
    seen = Seen()
    assert seen.add(keys(5, 7, 5)).tolist() == [True, True, False]
    assert seen.add(keys(7, 9)).tolist() == [False, True]
    assert len(seen) == 3


def test_nothing_added_is_nothing() -> None:
    seen = Seen()
    assert seen.add(keys()).tolist() == []
    assert len(seen) == 0


def test_zero_and_one_are_one_key_as_zero_marks_an_empty_slot() -> None:
    assert Seen().add(keys(0, 1, 0)).tolist() == [True, False, False]


def test_the_answers_are_those_of_a_set_while_the_table_grows() -> None:
    stream = rng.integers(0, 2**64, 300_000, dtype=np.uint64)
    stream[::3] = stream[1::3]
    seen, known, expected = Seen(), set(), []
    for key in stream.tolist():
        expected.append(key not in known)
        known.add(key)
    found = np.concatenate([seen.add(part) for part in np.array_split(stream, 77)])
    assert found.tolist() == expected
    assert len(seen) == len(known)
    assert seen.nbytes > START * SLOTS * 8  # it did grow
    assert seen.nbytes > MOVED * SLOTS * 8  # by more than one move
    assert not seen.add(stream).any()


@pytest.mark.parametrize("top", [0, 2**64 - 2**20])
def test_keys_that_want_the_same_row_overflow_to_the_next_and_around_the_end(top: int) -> None:
    crowd = keys(*range(top + 1, top + 5001))
    seen = Seen()
    assert seen.add(crowd).all()
    assert not seen.add(crowd).any()
    assert seen.add(keys(2**63)).all()


def test_a_key_takes_10_to_14_bytes() -> None:
    seen = Seen()
    while len(seen) < 100_000:
        seen.add(rng.integers(0, 2**64, 997, dtype=np.uint64))
        if seen.nbytes > START * SLOTS * 8:
            assert 10 <= seen.nbytes / len(seen) <= 14.3  # one batch may make it grow early
