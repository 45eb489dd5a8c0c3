"""Steps recorded as CUDA graphs give what any steps give; in rehearsal, `tests.recorders`'."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llama_cli.inference import split, static
from llama_cli.inference.backend import Piece
from llama_cli.inference.engine import Engine, Settings
from llama_cli.inference.graphs import Graphs
from llama_cli.inference.network import Network
from llama_cli.model.transformer import Transformer, init_weights
from llama_cli.records import Prompt
from tests.gpu.problems import needs_gpu
from tests.recorders import Traced
from tests.tiny import CONFIG, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.gpu

SHAPE = replace(CONFIG, dim=256, heads=4, hidden=512, context=1024)
TEXTS = ["The cat", "The cat opens the river. The", "", "The table holds the", "The river"]
NEAR = {torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


def network_of(device: str, dtype: torch.dtype = torch.float32, **changes: int) -> Network:
    quantize = bool(changes.pop("quantize", 0))
    model = Transformer(replace(SHAPE, **changes)).eval()
    init_weights(model, 0)
    network = Network(model.to(device, dtype), quantize=quantize)
    return rehearsed(network)


def rehearsed(network: Network) -> Network:
    network.graphs = network.graphs or Graphs(Traced())
    return network


def decoded(network: Network, *, slots: int = 5) -> Tensor:
    """Read three prompts, then known tokens after each; the cache grows in the midst."""
    cache, held = network.cache(), {0: 250, 1: 3, 4: 40}  # by slot; others pad
    cache.grow(slots, 300)
    draw = torch.Generator().manual_seed(0)
    found = []
    for slot, count in held.items():
        ids = torch.randint(3, 400, (count,), generator=draw).tolist()
        network.states(ids, [Piece(slot, 0, count)], cache)
    for turn in range(16):  # the first row passes from 256 places to 512
        if turn == 10:
            cache.grow(slots, 600)
        ids = torch.randint(3, 400, (3,), generator=draw).tolist()
        pieces = [Piece(slot, count + turn, 1) for slot, count in held.items()]
        found.append(network.states(ids, pieces, cache).float().cpu())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        *((dtype, {}) for dtype in NEAR),
        *((torch.bfloat16, changes) for changes in ({"kv_heads": 2}, {"quantize": 1})),
    ],
)
def test_steps_as_recorded_give_what_any_steps_give(
    device: str, dtype: torch.dtype, changes: dict[str, int]
) -> None:
    network = network_of(device, dtype, **changes)
    graphs, network.graphs = network.graphs, None
    wanted = decoded(network)
    network.graphs = graphs
    found = decoded(network)
    assert graphs
    assert (graphs.fault, len(graphs.held)) == ("", 1)  # after it grew, one window
    assert torch.allclose(found, wanted, atol=NEAR[dtype])


def test_completions_are_the_same_with_graphs_and_without(device: str) -> None:
    model = tiny_model().to(device).eval()
    network = Network(model)
    graphs, network.graphs = rehearsed(network).graphs, None
    engine = Engine(network, tiny_tokenizer())
    prompts = [Prompt(str(n), text) for n, text in enumerate(TEXTS)]
    for batch in (1, 3):
        settings = Settings(max_tokens=30, temperature=0, batch=batch)
        network.graphs = None
        wanted = [each.tokens for each in engine.generate(prompts, settings)]
        network.graphs = graphs
        assert [each.tokens for each in engine.generate(prompts, settings)] == wanted
    assert graphs
    assert graphs.held
    assert not graphs.fault


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("heads", [(32, 1), (8, 4)])
def test_places_may_be_read_in_parts(
    device: str, dtype: torch.dtype, heads: tuple[int, int]
) -> None:
    assert split.works(torch.device(device), dtype, *heads, 128)


def test_a_step_waits_for_nothing_on_the_gpu(device: str) -> None:
    needs_gpu(device)
    network = network_of(device, torch.bfloat16)
    cache = network.cache()
    cache.grow(2, 100)
    pieces = [Piece(0, 3, 1), Piece(1, 50, 1)]
    window = static.window_of(pieces, cache.slots, cache.length)
    plan = static.Plan(window, static.turns_of(network, cache.length))
    given = torch.tensor(static.given([5, 6], pieces, window, cache.length), device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            static.step(network, plan, cache, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
