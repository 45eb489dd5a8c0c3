"""The plan against Tables 2 and 15, and against Hoffmann et al."""

from __future__ import annotations

import pytest

from llama_cli.model.config import SIZES
from llama_cli.parallel.plan import activations, compute_optimal, plan
from llama_cli.parallel.words import describe


@pytest.mark.parametrize(
    ("size", "tokens", "hours", "rate"),
    [
        ("7b", 10**12, 82_432, 3370),
        ("13b", 10**12, 135_168, 2055),
        ("33b", 14 * 10**11, 530_432, 733),
        ("65b", 14 * 10**11, 1_022_362, 380),
    ],
)
def test_the_papers_runs_take_the_papers_hours(
    size: str, tokens: int, hours: int, rate: int
) -> None:
    found = plan(SIZES[size], size=size, tokens=tokens)
    assert round(found.gpu_hours) == hours
    assert round(found.tokens_per_second) == rate


def test_training_state_is_16_bytes_a_parameter_and_2_for_bf16() -> None:
    found = plan(SIZES["33b"], size="33b", tokens=1).memory
    state = found.weights + found.gradients + found.optimizer
    assert state == 16 * SIZES["33b"].parameters  # 520 GB
    assert found.total == state + found.half_weights + found.activations


def test_fp32_needs_no_second_copy_of_the_weights() -> None:
    assert plan(SIZES["3m"], size="3m", tokens=1, bf16=False).memory.half_weights == 0


def test_activations_of_a_33b_sequence_are_those_of_section_2_4() -> None:
    # x, q, k, v, the attention's output, the middle residual, both SwiGLU halves; 4 B a head
    by_hand = 60 * 2048 * (2 * (6 * 6656 + 2 * 17_920) + 4 * 52)
    assert activations(SIZES["33b"], bf16=True) == by_hand


def test_compute_optimal_uses_all_the_compute_at_20_tokens_a_parameter() -> None:
    best = compute_optimal(6e21)
    assert best.tokens == pytest.approx(20 * best.parameters)
    assert 6 * best.parameters * best.tokens == pytest.approx(6e21)


def test_the_33b_is_smaller_and_trained_longer_than_compute_optimal() -> None:
    found = plan(SIZES["33b"], size="33b", tokens=14 * 10**11)
    assert found.optimal.tokens < found.tokens
    assert found.optimal_inference_flops > 2 * found.parameters


def test_an_unnamed_rate_is_said_to_be_ours() -> None:
    found = plan(SIZES["110m"], size="110m", tokens=10**9)
    assert found.rate_from.startswith("ours")
    assert found.tokens_per_second == pytest.approx(0.5 * 312e12 / found.flops_per_token)


def test_the_65b_counts_its_parameters_and_names_the_papers() -> None:
    text = describe("65b", plan(SIZES["65b"], size="65b", tokens=14 * 10**11))
    assert "65.29B  the paper prints 65.2" in text


def test_small_figures_are_not_rounded_away() -> None:
    text = describe("3m", plan(SIZES["3m"], size="3m", tokens=10**6))
    assert "0.000256" in text  # GPU-hours
    assert "MB" in text
