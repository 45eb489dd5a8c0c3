"""Which token is chosen, by arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.inference.sample import draw, falling, kept, nucleus, uniform

FOUR = np.array([0.1, 0.4, 0.2, 0.3], np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max())
    return p / p.sum()


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [
        (0.0, [1]),  # the most likely is always kept
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.65, [1, 3]),  # 0.7 crosses the line; the one that crosses is kept
        (0.75, [1, 3, 2]),
        (1.0, [0, 1, 2, 3]),  # everything, unsorted
    ],
)
def test_the_token_that_crosses_the_line_is_the_last_kept(top_p: float, tokens: list[int]) -> None:
    assert nucleus(FOUR, top_p)[1].tolist() == tokens


def test_a_token_is_kept_when_those_before_hold_exactly_top_p() -> None:
    assert nucleus(np.array([0.5, 0.25, 0.25]), 0.5)[1].tolist()[:2] == [0, 1]


@pytest.mark.parametrize("size", [100, 4096, 40_000, 400_000])
def test_a_flat_distribution_keeps_top_p_of_its_tokens_and_one(size: int) -> None:
    flat = np.full(size, 1 / size)
    assert len(nucleus(flat, 0.5)[1]) == pytest.approx(size / 2 + 1, abs=1)


@pytest.mark.parametrize("sharpness", [1, 3, 9])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999, 0.9999999])
def test_the_floors_leave_out_nothing_that_a_full_sort_keeps(sharpness: int, top_p: float) -> None:
    p = softmax(np.random.default_rng(0).standard_normal(20_000, np.float32) * sharpness)
    tokens = np.argsort(-p, kind="stable")
    ordered = p[tokens].astype(np.float64)
    kept = ordered.cumsum() - ordered <= top_p
    assert nucleus(p, top_p)[1].tolist() == tokens[kept & (ordered > 0)].tolist()


@pytest.mark.parametrize("distinct", [1, 3, 1000])
def test_equal_probabilities_keep_their_order(distinct: int) -> None:
    p = softmax(np.random.default_rng(0).integers(0, distinct, 5000).astype(np.float32))
    assert falling(p).tolist() == np.argsort(-p, kind="stable").tolist()
    assert falling(p.astype(np.float64)).tolist() == falling(p).tolist()


def test_temperature_zero_takes_the_most_likely() -> None:
    assert draw(np.log(FOUR), 0.999, temperature=0, top_p=1.0) == 1


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.56, 1), (0.58, 3), (0.999999, 3)])
def test_a_draw_splits_the_unit_interval_by_renormalised_probability(
    number: float, token: int
) -> None:
    # 0.4 and 0.3 are kept: the first has 4/7 = 0.571 of the interval
    assert draw(np.log(FOUR), number, temperature=1.0, top_p=0.6) == token


def test_half_the_temperature_squares_the_odds() -> None:
    # odds of 0.4 to 0.3 become 16 to 9: the boundary moves from 4/7 to 16/25
    assert draw(np.log(FOUR), 0.63, temperature=0.5, top_p=0.5) == 1
    assert draw(np.log(FOUR), 0.65, temperature=0.5, top_p=0.6) == 3


def test_an_impossible_token_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0.0, -np.inf])
    assert {draw(logits, n / 10, temperature=1.0, top_p=1.0) for n in range(10)} == {1}


def test_draws_follow_the_probabilities() -> None:
    drawn = [
        draw(np.log(FOUR), uniform(7, str(n), 0), temperature=1.0, top_p=1.0) for n in range(2000)
    ]
    for token, p in enumerate(FOUR.tolist()):
        assert abs(drawn.count(token) / 2000 - p) < 4 * (p * (1 - p) / 2000) ** 0.5


def test_the_number_depends_on_seed_name_and_position_and_nothing_else() -> None:
    numbers = {uniform(s, n, p) for s in (0, 1) for n in ("a", "b") for p in (0, 1)}
    assert len(numbers) == 8
    assert uniform(1, "a", 1) in numbers
    assert all(0 <= number < 1 for number in numbers)


def test_a_temperature_next_to_nothing_takes_the_most_likely() -> None:
    assert draw(np.array([0.0, 1.0, 0.5]), 0.99, temperature=1e-300, top_p=0.95) == 1


@pytest.mark.filterwarnings("error")
def test_a_token_that_is_next_to_impossible_is_never_drawn_and_nothing_is_warned_of() -> None:
    logits = np.array([0.0, -3e38, 1.0], np.float32)
    assert {draw(logits, n / 10, temperature=1e-3) for n in range(10)} == {2}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("temperature", [1e38, 1e39, 1e308])
def test_at_any_temperature_only_an_impossible_token_is_never_drawn(temperature: float) -> None:
    logits = np.array([-np.inf, 3.0, -3.0, -np.inf], np.float32)
    drawn = [draw(logits, n / 10, temperature=temperature) for n in range(10)]
    assert drawn == [1] * 5 + [2] * 5


def by_definition(p: list[float], *, top_k: int, top_p: float, min_p: float) -> dict[int, float]:
    """Filter one after the other, as the papers say, with sorted lists and sums."""
    left = sorted(range(len(p)), key=lambda token: (-p[token], token))
    left = left[: top_k or None]
    whole, before, nucleus = math.fsum(p[token] for token in left), 0.0, []
    for token in left:
        if before / whole <= top_p:
            nucleus.append(token)
        before += p[token]
    left = [token for token in nucleus if p[token] >= min_p * p[nucleus[0]]]
    whole = math.fsum(p[token] for token in left)
    return {token: p[token] / whole for token in left}


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-60, 60), min_size=2, max_size=60),
    top_k=st.integers(0, 70),
    top_p=st.sampled_from([0.0, 0.1, 0.55, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_what_is_drawn_from_is_what_the_definitions_leave(
    logits: list[int], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    p_V = softmax(np.array(logits, np.float32) / 10 / np.float32(temperature))
    p, tokens = kept(p_V, top_k=top_k, top_p=top_p, min_p=min_p)
    wanted = by_definition(p_V.astype(float).tolist(), top_k=top_k, top_p=top_p, min_p=min_p)
    edge = math.fsum(sorted(p_V.astype(float).tolist())[::-1])
    found = dict(zip(tokens.tolist(), (p / p.sum()).tolist(), strict=True))
    if set(found) != set(wanted):  # a sum of floats may fall on either side of top_p
        assert len(set(found) ^ set(wanted)) == 1
        assert edge == pytest.approx(1)
    else:
        assert found == pytest.approx(wanted, abs=1e-6)


def test_draws_follow_what_is_left_of_the_probabilities() -> None:
    options = {"top_k": 3, "top_p": 0.9, "min_p": 0.55}  # of 4/9, 3/9, 2/9 the last is too rare
    drawn = [
        draw(np.log(FOUR), uniform(3, str(n), 0), temperature=1.0, **options) for n in range(2000)
    ]
    assert set(drawn) == {1, 3}
    assert abs(drawn.count(1) / 2000 - 4 / 7) < 4 * (4 / 7 * 3 / 7 / 2000) ** 0.5


@pytest.mark.parametrize(("top_k", "tokens"), [(1, [1]), (2, [1, 3]), (4, [0, 1, 2, 3])])
def test_so_many_of_the_likeliest_are_kept(top_k: int, tokens: list[int]) -> None:
    assert sorted(kept(FOUR, top_k=top_k)[1].tolist()) == tokens


def test_each_sample_has_numbers_of_its_own() -> None:
    assert len({uniform(0, "a", 5, sample) for sample in range(4)}) == 4
    assert uniform(0, "a", 5, 0) == uniform(0, "a", 5)
