"""The fused network computes what the model does, and each row for itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from llama_cli.inference.alike import BLOCK, alike
from llama_cli.inference.backend import Piece
from llama_cli.inference.cache import Cache
from llama_cli.inference.network import Network
from llama_cli.inference.products import Product, dense, int8, laid_out, widened
from llama_cli.model.transformer import Transformer, init_weights
from tests.tiny import CONFIG

IDS = torch.randint(3, 400, (1, 50), generator=torch.Generator().manual_seed(1))


def made(**changes: int | bool) -> Transformer:
    torch.set_num_threads(1)
    model = Transformer(replace(CONFIG, **changes)).eval()  # type: ignore[arg-type]
    init_weights(model, 0)
    return model


def run(network: Network, steps: list[int]) -> Tensor:
    """Read IDS in so many steps, each of so many tokens."""
    cache, at, found = network.cache(), 0, []
    cache.grow(2, 50)
    for count in steps:
        ids = IDS[0, at : at + count].tolist()
        found.append(network.states(ids, [Piece(1, at, count)], cache)[:count])
        at += count
    return torch.from_numpy(network.logits(torch.cat(found)))


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 1}, {"tied": True}, {"layers": 1}])
@pytest.mark.parametrize("steps", [[50], [32, 18], [47, 1, 1, 1]])
def test_logits_are_those_of_the_model(changes: dict[str, int], steps: list[int]) -> None:
    model = made(**changes)
    with torch.inference_mode():
        wanted = model(IDS)[0]
        found = run(Network(model), steps)
        assert torch.allclose(found, wanted, atol=1e-5)
        assert torch.allclose(model(IDS)[0], wanted, atol=1e-5)  # its weights are still its own


def test_bf16_is_near() -> None:
    model = made()
    with torch.inference_mode():
        wanted = model(IDS)[0]
        found = run(Network(model.to(torch.bfloat16)), [40, *[1] * 10])
    assert torch.allclose(found, wanted, atol=0.1)


@pytest.mark.parametrize("shape", [(96, 32), (400, 64), (1024, 256), (288, 2048), (700, 900)])
@pytest.mark.parametrize("kind", [dense, int8])
def test_a_row_of_a_product_depends_on_nothing_but_itself(
    shape: tuple[int, int], kind: Callable[[Tensor], Product]
) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=random)
    x = torch.randn(300, shape[1], generator=random)
    product = kind(laid_out(weight))
    wanted = product(x[:2])
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        for rows in (2, 3, 16, 33, 300):
            assert torch.equal(product(x[:rows])[:2], wanted)
            assert torch.equal(product(x[:rows].flip(0)).flip(0)[:2], wanted)
    torch.set_num_threads(1)
    error = (product(x) - x @ weight.t()).abs().max() / (x @ weight.t()).std()
    assert error < (1e-5 if kind is dense else 0.1)


def test_eight_bits_that_are_widened_when_used_are_near() -> None:
    weight, x = torch.randn(96, 64), torch.randn(5, 64)
    for dtype in (torch.float32, torch.bfloat16):
        found = widened(weight.to(dtype))(x.to(dtype))
        assert found.dtype == dtype
        assert (found - x @ weight.t()).abs().max() < 0.1 * (x @ weight.t()).std()


def test_a_row_of_zeros_in_eight_bits_is_zero() -> None:
    assert int8(torch.ones(32, 32))(torch.zeros(2, 32)).abs().max() == 0
    assert int8(torch.zeros(32, 32))(torch.ones(2, 32)).abs().max() == 0


def test_laying_out_keeps_every_value() -> None:
    for shape in ((96, 32), (1024, 32)):
        weight = torch.randn(shape)
        assert torch.equal(laid_out(weight), weight)


def test_room_grows_and_what_is_there_stays() -> None:
    cache = Cache(CONFIG, CONFIG.heads, device=torch.device("cpu"), dtype=torch.float32)
    cache.grow(1, 10)
    kv = torch.ones(1, 2 * CONFIG.heads, CONFIG.head_dim)
    cache.write(0, torch.tensor([3]), kv)
    cache.grow(3, 100)
    assert (cache.slots, cache.length) == (3, 128)
    assert torch.equal(cache.kv_NSTHD[0, 0, 3], kv[0])
    cache.grow(2, 5)
    assert (cache.slots, cache.length) == (3, 128)


def test_beginnings_are_alike_in_whole_blocks() -> None:
    ids = list(range(3 * BLOCK))
    assert alike(ids, ids) == 3 * BLOCK
    assert alike(ids, ids[: 2 * BLOCK + 5]) == 2 * BLOCK
    assert alike(ids, [*ids[: 2 * BLOCK - 1], 9999]) == BLOCK
    assert alike(ids, [9999, *ids[1:]]) == 0


def test_the_first_of_the_largest_is_taken_and_nothing_fails_on_nan() -> None:
    network = Network(made())
    rows = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0], [np.nan] * 3], np.float32)
    best, total = network.summary(rows)
    assert best == [1, 0, 0]
    assert total[0] == pytest.approx(math.log(math.e + 2 * math.e**3))
    assert np.isnan(total[2])
