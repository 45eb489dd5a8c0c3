"""Places read in parts give what they give as a whole, and are read so only where that is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from llama_cli.inference import graphs, split, static
from llama_cli.inference.backend import Piece
from llama_cli.inference.graphs import Graphs
from llama_cli.inference.network import Network
from llama_cli.inference.static import Plan, Window
from tests.recorders import Traced
from tests.unit.test_inference_network import made

IDS = torch.randint(3, 400, (2000,), generator=torch.Generator().manual_seed(3)).tolist()
Sums = Callable[..., tuple[Tensor, Tensor]]

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def network_of(**changes: int) -> Network:
    return Network(made(**changes))


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    split.works.cache_clear()
    yield
    split.works.cache_clear()


@pytest.mark.parametrize("changes", [{}, {"heads": 4, "kv_heads": 2}])
@pytest.mark.parametrize("start", [5, 1100, 1279])
def test_a_step_in_parts_gives_what_any_step_gives(changes: dict[str, int], start: int) -> None:
    network, pieces = network_of(**changes), [Piece(0, start, 1)]
    cache, window = network.cache(), Window(0, 1, 1280)
    cache.grow(1, 1279)
    network.states(IDS[:start], [Piece(0, 0, start)], cache)
    wanted = network.states([9], pieces, cache)
    given = torch.tensor(static.given([9], pieces, window, cache.length))
    plan = Plan(window, static.turns_of(network, cache.length), parts=5)
    with torch.inference_mode():
        found = static.step(network, plan, cache, given)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_row_that_has_come_far_is_recorded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    step = graphs.step
    monkeypatch.setattr(graphs, "step", lambda *given: (plans.append(given[1]), step(*given))[1])
    network = network_of()
    cache, network.graphs = network.cache(), Graphs(Traced())
    cache.grow(1, 1500)
    for at in (100, 1100):
        for _ in range(4):
            network.states([9], [Piece(0, at, 1)], cache)
    assert {(plan.window.length, plan.parts) for plan in plans} == {(256, 1), (1280, 5)}


def test_every_part_has_as_many_places_in_whole_grains() -> None:
    for length in range(1024, 8192, 64):
        each, left = divmod(length, split.parts_of(1, length))
        assert left == each % split.GRAIN == 0
        assert each >= split.SMALLEST


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("heads", "queries"), [(4, 1), (2, 4)])
def test_parts_work_on_a_processor(dtype: torch.dtype, heads: int, queries: int) -> None:
    assert split.works(torch.device("cpu"), dtype, heads, queries, 64)


def refused(*_: object) -> None:
    raise RuntimeError("no such operator")


def of_base_two(*given: Any, with_sums: Sums = split._with_sums) -> tuple[Tensor, Tensor]:
    out, total = with_sums(*given)
    return out, total * 1.4427


def without_numbers(*given: Any, with_sums: Sums = split._with_sums) -> tuple[Tensor, Tensor]:
    out, total = with_sums(*given)
    return out.index_fill(0, torch.tensor([3]), torch.nan), total


@pytest.mark.parametrize("operator", [refused, of_base_two, without_numbers])
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_operator_that_gives_something_else_is_left_alone(
    operator: Sums, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "_with_sums", operator)
    assert not split.works(torch.device("cpu"), dtype, 4, 1, 64)
    assert graphs._parts(network_of(), Window(0, 1, 1280)) == 1
