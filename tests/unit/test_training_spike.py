"""What counts as a spike, and which batch a step trains on when some are left out."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path

import pytest
import torch

from llama_cli.errors import LlamaError
from llama_cli.training.data import Sequences
from llama_cli.training.spike import (
    FEWEST,
    NAME,
    SIGMAS,
    TIMES,
    WINDOW,
    Left,
    Recent,
    Skipped,
    is_fatal,
)
from tests.unit.training import trainer, weights, write_sequences


def recent(losses: list[float], norm: float = 1.0) -> Recent:
    found = Recent()
    for loss in losses:
        found.add(loss, norm)
    return found


def left(first: int, last: int, step: int = 0, choice: str = "rewind") -> Left:
    return Left(first, last, step, choice, "")


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_no_number_is_a_spike_from_the_first_step(bad: float) -> None:
    assert Recent().judge(bad, 1.0) == "the loss is not a number"
    assert Recent().judge(1.0, bad) == "the gradient's norm is not a number"
    assert is_fatal(bad, 1.0)
    assert is_fatal(1.0, bad)


def test_a_loss_is_compared_with_mean_and_deviation_of_the_last_steps() -> None:
    steady = recent([2.0, 4.0] * (WINDOW // 2))  # mean 3, deviation 1
    limit = 3.0 + SIGMAS
    assert steady.judge(limit, 1.0) is None
    assert steady.judge(limit + 0.001, 1.0) == "the loss of 9.001 is over 9.000"
    assert not is_fatal(limit + 0.001, 1.0)


def test_a_loss_that_hardly_varies_may_still_rise_a_tenth_of_a_nat() -> None:
    flat = recent([2.0] * WINDOW)
    assert flat.judge(2.09, 1.0) is None
    assert flat.judge(2.11, 1.0)


def test_a_norm_is_compared_with_the_median() -> None:
    steady = recent([2.0] * (WINDOW - 1))
    steady.add(2.0, 500.0)  # one outlier moves no median
    assert steady.judge(2.0, TIMES) is None
    assert steady.judge(2.0, TIMES + 0.1) == "the gradient's norm of 10.1 is over 10"


def test_few_steps_are_nothing_to_compare_with() -> None:
    few = recent([2.0] * (FEWEST - 1))
    assert few.judge(50.0, 50.0) is None
    few.add(2.0, 1.0)
    assert few.judge(50.0, 50.0)


def test_only_the_last_steps_count() -> None:
    assert recent([9.0] * 500 + [2.0] * WINDOW).judge(3.0, 1.0)


def test_a_falling_loss_is_no_spike() -> None:
    found = Recent()
    for step in range(1000):
        loss = 2.0 + 8.0 * 0.99**step
        assert found.judge(loss, 1.0) is None
        found.add(loss, 1.0)


def test_what_a_checkpoint_keeps_judges_alike() -> None:
    whole = recent([2.0 + number / 7 for number in range(300)])
    back = Recent.from_json(json.loads(json.dumps(whole.to_json())))
    assert back == whole
    assert back.losses.maxlen == WINDOW
    assert Recent.from_json(None) == Recent()


def test_steps_take_the_batches_that_are_not_left_out() -> None:
    skipped = Skipped([left(6, 6), left(2, 4)])
    assert [skipped.batch(step) for step in (1, 2, 3, 4)] == [1, 5, 7, 8]
    assert len(skipped) == 4


def test_nothing_left_out_changes_nothing() -> None:
    assert [Skipped().batch(step) for step in (1, 2, 3)] == [1, 2, 3]


def test_batches_left_out_twice_count_once() -> None:
    skipped = Skipped([left(3, 3, choice="skip"), left(2, 5), left(2, 5)])
    assert len(skipped) == 4
    assert [skipped.batch(step) for step in (1, 2)] == [1, 6]


def test_skips_one_after_the_other_are_counted() -> None:
    skipped = Skipped(left(number, number, choice="skip") for number in (3, 5, 6, 7))
    assert [skipped.row_before(batch) for batch in (5, 6, 8, 9)] == [0, 1, 3, 0]


def test_rewinds_to_a_checkpoint_are_counted() -> None:
    skipped = Skipped([left(3, 4, 2), left(5, 6, 2), left(9, 9, 8, "skip")])
    assert [skipped.rewinds_to(step) for step in (2, 8)] == [2, 0]


def test_what_is_left_out_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Skipped.load(tmp_path).left == []
    Skipped([left(2, 4, 1), left(6, 6, 5, "skip")]).save(tmp_path)
    assert Skipped.load(tmp_path).left == [left(2, 4, 1), left(6, 6, 5, "skip")]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("text", ["{", '[{"first": 1}]', "3"])
def test_a_damaged_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(LlamaError, match=r"skipped\.json: damaged"):
        Skipped.load(tmp_path)


def test_a_step_that_is_refused_leaves_weights_and_moments_as_they_were(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    one, other = trainer(), trainer()
    seen = []

    def refuse(loss: float, norm: float) -> bool:
        seen.append((loss, norm))
        return False

    refused = one.step(1, data.batch(9, 4), accept=refuse)
    assert not refused.taken
    assert seen == [(refused.loss, refused.grad_norm)]
    for found in (one, other):
        assert found.step(1, data.batch(1, 4), accept=lambda loss, norm: True).taken
    left_alone = {held.name: held.tensor for held in other.slices()}
    assert all(torch.equal(held.tensor, left_alone[held.name]) for held in one.slices())
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(one).items())
