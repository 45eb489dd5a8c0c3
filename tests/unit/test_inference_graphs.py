"""Steps that are recorded and repeated give what any step gives, and harm nothing beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from llama_cli.commands._model import load_engine
from llama_cli.inference import graphs, static
from llama_cli.inference.alike import BLOCK
from llama_cli.inference.backend import Piece
from llama_cli.inference.batch import Batch
from llama_cli.inference.cache import SPARE, Cache
from llama_cli.inference.engine import Engine, Request, Settings
from llama_cli.inference.graphs import PLAIN, Cuda, Graphs, open_graphs
from llama_cli.inference.network import Network
from llama_cli.inference.products import Dense, Product, add, dense, int8
from llama_cli.inference.rows import rows_of
from llama_cli.inference.static import Plan, Window, window_of
from llama_cli.model.formats import open_source
from llama_cli.records import Completion, Prompt
from tests.recorders import Failing, Traced
from tests.tiny import CONFIG, tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.unit.test_inference_network import made

TEXTS = ["The cat", "The cat opens the river. The", "", "Ünï 12", "The table holds the"]
MIXED = [*TEXTS, *("The cat opens the river. " * n for n in (1, 2, 3)), *TEXTS]
LONG = torch.randint(3, 400, (60,), generator=torch.Generator().manual_seed(2)).tolist()


def recording(network: Network) -> Traced:
    recorder = Traced()
    network.graphs = Graphs(recorder)
    return recorder


def engine_of(*, quantize: bool = False) -> tuple[Engine, Network]:
    model = tiny_model().eval()
    network = Network(model, quantize=quantize)
    return Engine(network, tiny_tokenizer()), network


def asked(texts: Sequence[str] = MIXED, **changes: Any) -> list[Request]:
    """Ask for completions of lengths that differ."""
    settings = replace(Settings(temperature=0), **changes)
    return [
        Request(Prompt(str(n), text), replace(settings, max_tokens=4 + 5 * n % 23))
        for n, text in enumerate(texts)
    ]


def same(found: list[Completion], wanted: list[Completion]) -> None:
    assert [(e.id, e.tokens, e.finish) for e in found] == [
        (e.id, e.tokens, e.finish) for e in wanted
    ]
    for one, other in zip(found, wanted, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def both(requests: list[Request], *, batch: int, quantize: bool = False, ahead: int = 16) -> Traced:
    """Complete with and without graphs, and see that it is the same."""
    engine, network = engine_of(quantize=quantize)
    wanted = list(engine.answer(requests, batch=batch, ahead=ahead))
    recorder = recording(network)
    same(list(engine.answer(requests, batch=batch, ahead=ahead)), wanted)
    return recorder


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_completions_are_those_of_steps_that_are_not_recorded(
    batch: int, temperature: float
) -> None:
    recorder = both(asked(temperature=temperature), batch=batch)
    assert recorder.repeated > 3 * recorder.recorded > 0


def test_completions_in_eight_bits_are_the_same() -> None:
    assert both(asked(), batch=4, quantize=True).repeated > 0


def test_steps_are_recorded_anew_when_the_cache_has_grown_in_their_midst() -> None:
    # of one place in two the first row is always there, and the longest joins last
    requests = [
        Request(Prompt(str(n), text), Settings(max_tokens=count, temperature=0))
        for n, (text, count) in enumerate([("The cat", 40), ("The", 9), ("A", 9), ("x " * 16, 30)])
    ]
    recorder = both(requests, batch=2, ahead=2)
    assert recorder.forgotten == 2  # what there was before the first, and before it grew
    assert recorder.recorded > 1


def test_what_prompts_share_stays_as_it_was_beside_rows_that_pad() -> None:
    begins = " 1 2 3 4 5 6 7 8 9 10 11 12 13"
    texts = [f"{begins} {noun}" for noun in ("cat", "river", "answer", "table", "window", "garden")]
    assert len(tiny_tokenizer().encode(begins)) > BLOCK
    assert both(asked(texts), batch=3).repeated > 0
    assert both(asked(texts), batch=4, ahead=5).repeated > 0


def filled(network: Network, starts: list[int | None]) -> Cache:
    """Make a cache in whose slots so many tokens were read; of None, none."""
    cache = network.cache()
    cache.grow(len(starts), max(start or 0 for start in starts) + 1)
    for slot, start in enumerate(starts):
        if start:
            network.states(LONG[slot : slot + start], [Piece(slot, 0, start)], cache)
    return cache


def stepped(network: Network, cache: Cache, pieces: list[Piece], parts: int = 1) -> Tensor:
    """Do a step by `static`."""
    window = window_of(pieces, cache.slots, cache.length)
    plan = Plan(window, static.turns_of(network, cache.length), parts)
    given = static.given(range(5, 5 + len(pieces)), pieces, window, cache.length)
    with torch.inference_mode():
        return static.step(network, plan, cache, torch.tensor(given))[: len(pieces)]


@pytest.mark.parametrize(
    "changes", [{}, {"kv_heads": 1}, {"heads": 4, "kv_heads": 2}, {"tied": True}, {"layers": 1}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_gives_what_any_step_gives(changes: dict[str, int], dtype: torch.dtype) -> None:
    network = Network(made(**changes).to(dtype))
    starts = [None, 40, 1, None, 17, None, 3, None, None]
    pieces = [Piece(slot, start, 1) for slot, start in enumerate(starts) if start]
    wanted, cache = filled(network, starts), filled(network, starts)
    states = network.states(range(5, 9), pieces, wanted)
    found = stepped(network, cache, pieces)
    near = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(found.float(), states.float(), atol=near)
    own = slice(0, cache.length - SPARE)
    assert torch.allclose(cache.kv_NSTHD[:, :, own], wanted.kv_NSTHD[:, :, own], atol=near)


def test_pieces_may_come_in_any_order() -> None:
    network = Network(made())
    pieces = [Piece(3, 9, 1), Piece(0, 2, 1), Piece(2, 5, 1)]
    starts = [2, None, 5, 9]
    wanted = network.states(range(5, 8), pieces, filled(network, starts))
    assert torch.allclose(stepped(network, filled(network, starts), pieces), wanted, atol=1e-5)


def test_a_step_writes_a_place_of_each_row_and_what_pads_the_spare_ones() -> None:
    network = Network(made())
    cache = filled(network, [7, 20, None, 9, 30])
    before = cache.kv_NSTHD.clone()
    stepped(network, cache, [Piece(1, 20, 1), Piece(3, 9, 1)])  # slots 0 to 3
    changed = (cache.kv_NSTHD != before).flatten(3).any(-1)
    spare = cache.length - SPARE
    places = [[0, spare], [1, 20], [2, spare], [3, 9]]
    assert changed.nonzero()[:, 1:].tolist() == places * CONFIG.layers


def test_no_row_is_ever_given_the_spare_place() -> None:
    cache = Network(made()).cache()
    cache.grow(1, 63)
    assert cache.length == 64
    cache.grow(1, 64)
    assert cache.length == 128


def test_a_window_has_all_rows_and_lies_within_the_cache() -> None:
    for slots in range(1, 20):
        windows = set()
        for low in range(slots):
            for high in range(low, slots):
                found = window_of([Piece(low, 0, 1), Piece(high, 0, 1)], slots, 64)
                assert found.first <= low <= high < found.first + found.rows <= slots
                assert found.rows < 4 * (high - low + 1)
                windows.add(found)
        assert len(windows) <= 4 * slots


@pytest.mark.parametrize(
    ("most", "length"), [(0, 256), (255, 256), (256, 512), (1023, 1024), (1024, 1280), (2048, 2560)]
)
def test_the_places_that_are_read_are_rounded_up_by_256_or_a_quarter_at_most(
    most: int, length: int
) -> None:
    assert window_of([Piece(0, most, 1), Piece(1, 0, 1)], 2, 8192) == Window(0, 2, length)
    assert window_of([Piece(0, most, 1)], 1, most + 1).length == most + 1  # no more than there are


def test_a_window_is_recorded_when_it_has_come_before() -> None:
    network = Network(made())
    cache, recorder = filled(network, [4]), recording(network)
    for start in range(4, 4 + PLAIN):
        network.states([5], [Piece(0, start, 1)], cache)
    assert recorder.recorded == 0
    for start in range(4 + PLAIN, 9):
        network.states([5], [Piece(0, start, 1)], cache)
    assert (recorder.recorded, recorder.repeated) == (1, 5 - PLAIN)


def test_a_step_that_reads_a_prompt_is_as_any() -> None:
    network = Network(made())
    cache, recorder = filled(network, [4, 4]), recording(network)
    for start in range(4, 30, 2):
        network.states([5, 6, 7], [Piece(0, start // 2 + 2, 1), Piece(1, start, 2)], cache)
    assert recorder.recorded == 0


def test_what_was_given_stays_when_the_step_is_done_again() -> None:
    network = Network(made())
    cache, _ = filled(network, [4]), recording(network)
    states = [network.states([5 + n], [Piece(0, 4 + n, 1)], cache) for n in range(6)]
    copies = [each.clone() for each in states]
    network.states([50], [Piece(0, 10, 1)], cache)
    assert all(map(torch.equal, states, copies))


def test_the_graph_used_last_is_kept_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 2)
    network = Network(made())
    cache, recorder = filled(network, [4, 4, 4]), recording(network)
    for slot in (0, 1, 0, 2):  # 2 takes the place of 1
        for _ in range(PLAIN + 1):
            network.states([5], [Piece(slot, 4, 1)], cache)
    assert network.graphs
    assert [window.first for window in network.graphs.held] == [0, 2]
    assert recorder.recorded == 3


NONE = 7  # a piece that the model has no numbers for


def completed(network: Network, requests: list[Request]) -> list[list[int]]:
    """Complete one after the other, in one slot."""
    batch = Batch(network, tiny_tokenizer(), size=1)
    rows = [row for each in requests for row in rows_of(each, tiny_tokenizer(), 64, None)]
    waiting = deque(rows)
    while waiting or batch.rows:
        batch.step(waiting)
    return [row.ids for row in rows]


def test_a_row_without_numbers_spoils_none_that_has_its_place_after_it() -> None:
    model = tiny_model().eval()
    model.tok_embeddings.weight.data[NONE] = torch.nan
    network = Network(model)
    recorder = recording(network)
    good = asked(["The cat", "The river"], temperature=0)
    bad = replace(good[0], ids=(*LONG[:20], NONE))
    wanted = completed(network, good)
    assert recorder.repeated > 0
    ended, *found = completed(network, [bad, *good])
    assert ended == list(bad.ids or ())  # nothing more was said
    assert found == wanted


SHORT = "CUDA error: out of memory"


def test_where_nothing_can_be_recorded_it_is_said_once_and_all_goes_on() -> None:
    engine, network = engine_of()
    wanted, said = list(engine.answer(asked(), batch=3, ahead=16)), []
    network.graphs = Graphs(Failing(f"{SHORT}\nand more"), said.append)
    same(list(engine.answer(asked(), batch=3, ahead=16)), wanted)
    assert said == [f"no CUDA graphs, tokens take longer: {SHORT}"]
    assert network.graphs.fault == SHORT


def test_a_command_says_it_as_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cli.kernels.host.available", lambda: False)
    monkeypatch.setattr(graphs, "Cuda", lambda device: Failing(SHORT))
    gpu = torch.device("cuda")
    monkeypatch.setattr(
        "llama_cli.inference.network.open_graphs", lambda device, say: open_graphs(gpu, say)
    )
    run = Mock()
    engine = load_engine(run, open_source(tiny_checkpoint(tmp_path / "model")), "cpu")
    list(engine.answer(asked(["The cat"]), batch=1, ahead=1))
    run.say.assert_called_once_with(f"no CUDA graphs, tokens take longer: {SHORT}")


def test_a_processor_records_nothing() -> None:
    assert Network(made()).graphs is None


def test_a_gpu_records_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Cuda", lambda device: device)
    gpu = torch.device("cuda")
    monkeypatch.delenv("LLAMA_CUDA_GRAPHS", raising=False)
    found = open_graphs(gpu)
    assert found
    assert found.recorder == gpu
    monkeypatch.setenv("LLAMA_CUDA_GRAPHS", "0")
    assert open_graphs(gpu) is None


@pytest.mark.parametrize("kind", [dense, Dense, int8])
def test_a_product_is_added_to_what_is_there(kind: Callable[[Tensor], Product]) -> None:
    weight, x, y = torch.randn(96, 64), torch.randn(5, 64), torch.randn(5, 96)
    product = kind(weight)
    wanted = y + product(x)
    add(product, y, x)
    assert torch.allclose(y, wanted, atol=1e-5)


class Stream:
    """A stream that notes who waits for whom."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")


class Graph:
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def replay(self) -> None:
        self.events.append("replay")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that there is a GPU, and list what it is told."""
    said: list[str] = []
    pools = iter(range(9))

    @contextmanager
    def graph(
        graph: Graph, *, pool: int, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        said.append(f"begin {stream.name} {pool} {capture_error_mode}")
        yield
        said.append("end")

    main = Stream("main", said)
    for name, value in {
        "Stream": lambda device: Stream("aside", said),
        "graph_pool_handle": lambda: next(pools),
        "current_stream": lambda device: main,
        "CUDAGraph": lambda: Graph(said),
        "stream": lambda stream: nullcontext(),
        "set_stream": lambda stream: said.append(f"on {stream.name}"),
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return said


def test_a_gpu_runs_a_step_aside_and_then_records_it(events: list[str]) -> None:
    recorder, given = Cuda(torch.device("cuda")), torch.ones(4, 1)

    def step(given: Tensor) -> Tensor:
        events.append("step")
        return 2 * given

    again = recorder.record(step, given)
    assert events == [
        *("aside waits for main", "step", "begin aside 0 thread_local", "step", "end"),
        *("on main", "main waits for aside"),
    ]
    assert torch.equal(again(), 2 * given)
    assert events[-1] == "replay"
    recorder.forget()
    recorder.record(step, given)
    assert "begin aside 1 thread_local" in events


def test_a_recording_that_fails_leaves_the_stream_as_it_was(events: list[str]) -> None:
    def step(given: Tensor) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        Cuda(torch.device("cuda")).record(step, torch.ones(4, 1))
    assert events[-1] == "on main"
