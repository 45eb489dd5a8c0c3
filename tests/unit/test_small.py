"""The gold answer's bits a byte and margin, by arithmetic."""

import math

import pytest

from llama_cli.evaluation.small import bits_per_byte, margin, small_values


def test_a_uniform_guess_of_bytes_is_eight_bits_a_byte():
    assert bits_per_byte(5 * math.log(1 / 256), " word") == pytest.approx(8.0)


def test_bytes_are_counted_and_not_characters():
    assert bits_per_byte(-6 * math.log(2), "ééé") == pytest.approx(1.0)


def test_what_is_certain_takes_no_bits():
    assert math.copysign(1, bits_per_byte(0.0, "a")) == 1.0


def test_an_empty_text_has_no_bits_a_byte():
    with pytest.raises(ValueError, match="empty text"):
        bits_per_byte(-1.0, "")


def test_the_margin_is_to_the_best_other_answer():
    assert margin([-1.0, -9.0, -3.0], 0) == 2.0
    assert margin([-1.0, -9.0, -3.0], 2) == -2.0


def test_the_margin_is_positive_exactly_where_the_likeliest_answer_is_right():
    for logprobs in ([-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-3.0, -2.0, -1.0]):
        assert (margin(logprobs, 0) > 0) == (logprobs.index(max(logprobs)) == 0)


def test_two_equal_answers_have_no_margin_between_them():
    assert margin([-1.0, -1.0], 1) == 0.0


@pytest.mark.parametrize(("logprobs", "gold"), [([-1.0], 0), ([-1.0, -2.0], 2), ([-1.0, -2.0], -1)])
def test_what_has_no_margin_is_refused(logprobs, gold):
    with pytest.raises(ValueError, match="answer"):
        margin(logprobs, gold)


def test_both_are_given_for_a_row():
    found = small_values([-1.0, -0.5], 0, logprob=-4 * math.log(2), text=" cat")
    assert found == {"gold_bits_per_byte": 1.0, "margin": -0.5}


def test_no_value_is_infinite():
    nothing = -math.inf
    assert small_values([nothing, -1.0], 0, logprob=nothing, text=" a") == {}
    assert list(small_values([-1.0, nothing], 0, logprob=-1.0, text="a")) == ["gold_bits_per_byte"]
    assert list(small_values([-1.0], 0, logprob=-1.0, text=" a")) == ["gold_bits_per_byte"]
    assert list(small_values([-1.0, -2.0], 0, logprob=-1.0, text="")) == ["margin"]
