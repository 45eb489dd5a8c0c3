"""Products by oneDNN against the definition in fp64, from any side and in any layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llama_cli.model import products
from llama_cli.model.products import add_outer, add_times, plus_times, times


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs().max() / expected.abs().max()) < 1e-6)


A, B = draw(40, 56), draw(72, 56)
EXACT = A.double() @ B.double().t()


@pytest.mark.parametrize("turned", [(), (0,), (1,), (0, 1)])
def test_a_product_has_the_digits_of_fp32_in_any_layout(turned: tuple[int, ...]) -> None:
    a, b = (x.t().contiguous().t() if n in turned else x for n, x in enumerate((A, B)))
    assert close(times(a, b), EXACT)


def test_a_sum_is_added_or_given_anew() -> None:
    before = draw(40, 72)
    total = before.clone()
    add_times(total, A, B)
    assert close(total, EXACT + before)
    assert close(plus_times(before, A, B), EXACT + before)


@pytest.mark.parametrize("columns", [7, 72, 100])
def test_an_outer_product_is_added_up_in_parts(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "COLUMNS", columns)
    total = torch.full((72, 40), torch.nan)
    for first in (True, False):
        add_outer(total, B.t(), A.t(), first=first)
    assert close(total, 2 * EXACT.t())


def test_no_position_has_a_product_too() -> None:
    assert times(A[:0], B).shape == (0, 72)
