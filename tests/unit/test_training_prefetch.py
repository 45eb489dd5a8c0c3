"""Batches read ahead: in order, bounded, and with their errors."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from llama_cli.training.batch import Batch
from llama_cli.training.prefetch import Prefetch


def batch(step: int) -> Batch:
    return Batch(torch.tensor([[step, step]]))


def number(found: Batch | None) -> int:
    assert found is not None
    return int(found.tokens[0, 0])


def test_batches_come_in_the_order_of_the_steps() -> None:
    with Prefetch(batch, first=3, last=9) as batches:
        assert [number(batches.get(step)) for step in range(3, 10)] == list(range(3, 10))


def test_no_more_than_asked_are_read_ahead() -> None:
    read: list[int] = []

    def note(step: int) -> Batch:
        read.append(step)
        return batch(step)

    with Prefetch(note, first=1, last=100, ahead=2) as batches:
        batches.get(1)
        time.sleep(0.3)
        assert max(read) == 4  # two held, and one in the thread's hand


def test_an_error_is_raised_in_the_step_that_needs_the_batch() -> None:
    def fail(step: int) -> Batch:
        if step == 3:
            raise ValueError("a bad batch")
        return batch(step)

    with Prefetch(fail, first=1, last=9) as batches:
        assert number(batches.get(1)) == 1
        assert number(batches.get(2)) == 2
        with pytest.raises(ValueError, match="a bad batch"):
            batches.get(3)


def test_another_step_than_the_next_begins_anew() -> None:
    with Prefetch(batch, first=1, last=9) as batches:
        assert number(batches.get(1)) == 1
        assert number(batches.get(7)) == 7
        assert number(batches.get(8)) == 8
        assert number(batches.get(2)) == 2


def test_a_step_past_the_last_is_read_when_it_is_asked_for() -> None:
    read: list[int] = []

    def note(step: int) -> Batch:
        read.append(step)
        return batch(step)

    with Prefetch(note, first=1, last=2) as batches:
        assert [number(batches.get(step)) for step in (1, 2)] == [1, 2]
        time.sleep(0.1)
        assert read == [1, 2]
        assert number(batches.get(3)) == 3


def test_a_batch_is_read_while_the_step_before_runs() -> None:
    def slow(step: int) -> Batch:
        time.sleep(0.2)
        return batch(step)

    with Prefetch(slow, first=1, last=2) as batches:
        batches.get(1)
        time.sleep(0.5)  # a step
        start = time.perf_counter()
        batches.get(2)
        assert time.perf_counter() - start < 0.1


def test_one_who_is_told_to_stop_does_not_wait_for_a_batch() -> None:
    never = threading.Event()

    def stuck(step: int) -> Batch:
        never.wait(30)
        return batch(step)

    with Prefetch(stuck, first=1, last=2) as batches:
        assert batches.get(1, lambda: True) is None
    never.set()


def test_its_thread_ends_with_it() -> None:
    others = {*threading.enumerate()}  # of which some may end meanwhile
    with Prefetch(batch, first=1, last=99) as batches:
        batches.get(1)
        (own,) = {*threading.enumerate()} - others
    assert not own.is_alive()
