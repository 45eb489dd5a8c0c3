"""Statistics against published examples, whole-number arithmetic and exact distributions."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from llama_cli.evaluation import statistics
from llama_cli.evaluation.official import official_rows
from llama_cli.evaluation.statistics import (
    are_marks,
    bootstrap,
    holm,
    interval_of,
    mcnemar,
    resampled_means,
    share_beyond,
    smallest_paired,
    smallest_paired_flips,
    smallest_unpaired,
    wilson,
)
from tests.shell import ROOT


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [  # Newcombe, 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_that_of_newcombes_examples(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_is_the_same_for_wrong_answers_mirrored():
    low, high = wilson(29, 40)
    assert wilson(11, 40) == pytest.approx((1 - high, 1 - low))


def test_all_right_reaches_one_and_none_right_reaches_zero():
    assert wilson(7, 7).high == 1.0
    assert wilson(0, 7).low == 0.0


@pytest.mark.parametrize(("right", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_has_no_interval(right, count):
    with pytest.raises(ValueError, match="is no share"):
        wilson(right, count)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (150, 86, 3.716e-05),  # the performance of a prime minister; Agresti, 1990; Fay, 2010
        (9, 2, 0.06543),  # Fay, 2010, exact2x2
        (5, 1, 2 * (1 + 6) / 2**6),
        (6, 0, 2 / 2**6),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_exact_test_is_that_of_published_examples(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, rel=2e-4)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemars_test_is_exact_where_powers_of_two_leave_the_range_of_floats():
    whole = sum(math.comb(4000, k) for k in range(1901))
    assert mcnemar(2100, 1900) == float(Fraction(2 * whole, 2**4000))


def test_a_negative_count_is_refused():
    with pytest.raises(ValueError, match="cannot have flipped"):
        mcnemar(-1, 3)


def test_holms_correction_is_that_of_a_worked_example():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, which may not be below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


# -- the bootstrap --


def test_the_bootstraps_spread_is_the_standard_error_either_way_of_drawing():
    values = np.arange(200.0)  # distinct: rows are drawn; below: counts are
    for rows in (values, values // 20):
        means = resampled_means(rows, seed=3)
        assert means.mean() == pytest.approx(rows.mean(), rel=0.005)
        assert means.std() == pytest.approx(rows.std() / math.sqrt(200), rel=0.03)


def test_the_bootstraps_interval_of_many_values_is_that_of_the_normal():
    values = np.random.default_rng(5).normal(10, 2, 5000)
    half = 1.96 * values.std() / math.sqrt(5000)
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap(values, times=4000) == pytest.approx(expected, abs=half / 10)


def test_the_same_seed_draws_the_same_and_another_seed_does_not():
    values = [0.1, 0.5, 0.7, 2.0]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    first, second = (resampled_means(values, seed=seed, times=50) for seed in (1, 2))
    assert (first != second).any()


def test_how_much_is_drawn_at_a_time_bounds_memory_and_changes_no_count(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWN", 250)
    means = resampled_means(np.arange(100.0), times=7)  # 2, 2, 2 and 1
    assert means.shape == (7,)
    assert len(set(means)) == 7


def test_of_very_many_rows_fewer_samples_are_drawn_but_a_thousand_at_least(monkeypatch):
    monkeypatch.setattr(statistics, "MOST", 150_000)
    assert resampled_means(np.arange(100.0)).shape == (1500,)
    assert resampled_means(np.arange(1000.0)).shape == (1000,)
    assert resampled_means([0.0, 1.0] * 500).shape == (10_000,)  # drawn by their counts


def test_equal_values_have_an_interval_without_width():
    assert bootstrap([0.25] * 9) == (0.25, 0.25)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_differences_that_are_all_zero_show_nothing():
    assert share_beyond(resampled_means([0.0] * 50)) == 1.0


def test_differences_of_one_sign_give_the_least_p_there_is():
    for values in ([0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]):
        assert share_beyond(resampled_means(values, times=999)) == 2 / 1000


def test_the_bootstraps_p_is_near_that_of_the_normal():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 400)
    values += 2 / math.sqrt(400) * values.std() - values.mean()  # two standard errors from 0
    assert share_beyond(resampled_means(values)) == pytest.approx(0.0455, abs=0.01)


def test_marks_have_wilsons_interval_and_other_values_the_bootstraps():
    assert interval_of([1, 0, 0, 1, 1]) == wilson(3, 5)
    assert interval_of([0.5, 0, 1, 1]) == bootstrap([0.5, 0, 1, 1])
    assert not are_marks([0, 1, 2])


# -- what n rows can show --


def exact_power(count: int, flips: float, difference: float) -> float:
    """Sum the chances of all tables that McNemar's exact test calls a difference."""
    way = (flips + difference) / 2 / flips
    total = 0.0
    for flipped in range(6, 2 * int(count * flips) + 1):
        shown = [k for k in range(flipped // 2 + 1) if mcnemar(flipped - k, k) <= 0.05]
        seen = sum(_binomial(flipped, k, 1 - way) for k in shown)
        total += _binomial(count, flipped, flips) * seen
    return total


def _binomial(count: int, k: int, share: float) -> float:
    ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    return math.exp(ways + k * math.log(share) + (count - k) * math.log1p(-share))


def test_the_smallest_paired_difference_is_found_four_times_in_five():
    # Connor's formula is the normal's; the exact test is a little harder to convince
    difference = smallest_paired_flips(40, 1000)
    assert exact_power(1000, 0.04, difference) == pytest.approx(0.8, abs=0.04)
    assert exact_power(1000, 0.04, difference / 2) < 0.4


def test_connors_equation_holds_at_the_smallest_difference():
    found, share = smallest_paired_flips(300, 2000), 0.15
    left = 1.959964 * math.sqrt(share) + 0.841621 * math.sqrt(share - found**2)
    assert left == pytest.approx(found * math.sqrt(2000), rel=1e-5)


def test_where_nothing_flips_six_flips_are_the_least_that_could_have_shown():
    assert smallest_paired_flips(0, 1000) == 6 / 1000
    assert smallest_paired_flips(0, 3) == 1.0


def test_the_smallest_difference_is_millers_multiple_of_the_error():
    # 1.95996 + 0.84162 = 2.80158 standard errors; of two runs apart, sqrt(2) times that
    assert smallest_paired(2.0, 400) == pytest.approx(2.80158 * 2 / 20, rel=1e-5)
    assert smallest_unpaired(2.0, 400) == pytest.approx(2.80158 * 2 / 20 * 2**0.5, rel=1e-5)


def test_pairs_show_less_than_the_runs_apart_where_few_rows_flip():
    assert smallest_paired_flips(80, 2000) < smallest_unpaired(0.5, 2000) / 3


def test_the_table_of_the_docs_is_what_the_functions_give():
    page = (ROOT / "docs" / "evaluation-statistics.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ±([\d.]+) \| (.+) \|$", page, re.M)
    assert len(found) == 10
    for task, percent, rows, half, shows in found:
        count, share = int(rows.replace(",", "")), int(percent) / 100
        assert count == official_rows(task)
        low, high = wilson(round(share * count), count)
        smallest = [
            smallest_unpaired(math.sqrt(share * (1 - share)), count),
            *(smallest_paired_flips(round(part * count), count) for part in (0.1, 0.04)),
        ]
        assert half == f"{50 * (high - low):.1f}"
        assert shows == " | ".join(f"{100 * each:.1f}" for each in smallest)


def test_no_two_sizes_of_llama_are_told_apart_by_arc_challenge_and_openbookqa_alone():
    # Table 3, 33B and 65B: 57.8 and 56.0 of 1,172 rows, 58.6 and 60.2 of 500
    for difference, share, count in ((0.018, 0.57, 1172), (0.016, 0.594, 500)):
        assert difference < smallest_paired_flips(round(0.1 * count), count)
        assert difference < smallest_unpaired(math.sqrt(share * (1 - share)), count)
