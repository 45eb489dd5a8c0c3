"""Work in N processes gives what one process gives, in order, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from llama_cli.engines.local import spread
from llama_cli.errors import DataError, LlamaError


def test_results_come_in_input_order() -> None:
    assert list(spread(lambda n: n * n, range(50), jobs=3)) == [n * n for n in range(50)]


def test_one_job_stays_in_this_process() -> None:
    assert list(spread(lambda _: os.getpid(), [1], jobs=1)) == [os.getpid()]
    assert list(spread(lambda _: os.getpid(), [1], jobs=2)) != [os.getpid()]


def test_zero_jobs_are_all_cores() -> None:
    assert list(spread(abs, [-3], jobs=0)) == [3]


def test_input_is_not_read_far_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = spread(abs, items(), jobs=2)
    next(results)
    assert len(taken) <= 6


def fail(n: int) -> int:
    raise DataError("a.jsonl", n, "bad", hint="mend it")


def test_an_error_of_a_worker_keeps_its_kind_place_and_hint() -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:7: bad") as caught:
        list(spread(fail, [7], jobs=2))
    assert (caught.value.line, caught.value.hint) == (7, "mend it")


def test_a_worker_that_dies_is_one_clear_line() -> None:
    with pytest.raises(LlamaError, match="worker process died") as caught:
        list(spread(os._exit, [1], jobs=2))
    assert caught.value.hint == "fewer processes: -j 1"
