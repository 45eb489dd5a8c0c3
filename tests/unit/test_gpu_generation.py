"""How `make gpu` times decoding, in small and on a processor; and what it makes of its times."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_cli.inference.graphs import Graphs
from llama_cli.model.config import ModelConfig
from tests.gpu import time_generation
from tests.gpu.time_generation import Timing, lines, measure, network_of, steps, weight_bytes
from tests.recorders import Failing, Traced
from tests.tiny import CONFIG

ROWS = [1, 3]


def wait() -> None:
    pass


def test_steps_with_graphs_and_without_are_timed_for_each_number_of_rows() -> None:
    torch.set_num_threads(1)
    network, recorder = network_of(CONFIG, "cpu", torch.bfloat16), Traced()
    graphs = Graphs(recorder)
    found = list(measure(network, graphs, rows=ROWS, prompt=5, tokens=12, wait=wait))
    assert [(each.rows, each.graphs) for each in found] == [
        (rows, graphs) for rows in ROWS for graphs in (False, True)
    ]
    assert all(each.step > 0 < each.states for each in found)
    assert recorder.repeated > 4 * 12


def test_only_steps_in_which_no_prompt_is_read_are_counted() -> None:
    torch.set_num_threads(1)
    network = network_of(CONFIG, "cpu", torch.float32)
    assert len(steps(network, 2, 5, 12)) == 12 - 1  # the first comes with the prompt


def test_graphs_that_are_not_there_are_not_timed() -> None:
    torch.set_num_threads(1)
    network = network_of(CONFIG, "cpu", torch.float32)
    graphs = Graphs(Failing("no"), lambda words: None)
    with pytest.raises(RuntimeError, match=r"nothing was recorded: no$"):
        list(measure(network, graphs, rows=[1], prompt=5, tokens=9, wait=wait))


def test_bytes_are_those_of_all_weights_but_the_embedding() -> None:
    config = ModelConfig(dim=4, layers=2, heads=2, hidden=8, vocab_size=10)
    layer = 4 * 4 * 4 + 3 * 4 * 8 + 2 * 4
    assert weight_bytes(config) == 2 * (2 * layer + 4 + 10 * 4)
    assert weight_bytes(replace(config, tied=True)) == weight_bytes(config)  # the head is read


def test_copying_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time_generation.time, "perf_counter", lambda: next(now))
    assert time_generation.copy_rate("cpu", 100, wait) == 200  # a second each


TIMED = [
    *(Timing(1, False, 0.016, 0.015), Timing(1, True, 0.004, 0.0035)),
    *(Timing(32, False, 0.02, 0.019), Timing(32, True, 0.008, 0.005)),
]


def test_a_row_tells_tokens_bytes_and_their_share() -> None:
    found = list(lines(TIMED, 12_000_000_000, 4e12))
    assert found[3:7] == [
        "| 1 | no | 62 | 16.00 | 15.00 | 750 | 0.19 |",
        "| 1 | yes | 250 | 4.00 | 3.50 | 3,000 | 0.75 |",
        "| 32 | no | 1,600 | 20.00 | 19.00 | 600 | 0.15 |",
        "| 32 | yes | 4,000 | 8.00 | 5.00 | 1,500 | 0.38 |",
    ]
    assert len({line.count("|") for line in found[1:7]}) == 1
    assert found[7].endswith("of copying: 0.75, reached.")
    assert [*lines(TIMED, 11_900_000_000, 4e12)][-1].endswith("0.74, not reached.")


def test_the_kernel_that_takes_most_of_a_step_comes_first() -> None:
    seen = [("void norm<float>(int)", 2.0)] * 4 + [("gemv", 40.0), ("gemv", 60.0)]
    events = [{"cat": "kernel", "name": name, "dur": each} for name, each in seen]
    assert list(time_generation.kernels([{"cat": "cpu_op"}, *events], 2))[2:] == [
        "| `gemv` | 1 | 50.0 | 50 |",
        "| `norm` | 2 | 2.0 | 4 |",
        "| all | 3 | | 54 |",
    ]


def test_a_row_that_has_come_far_is_timed_too() -> None:
    torch.set_num_threads(1)
    network, recorder = network_of(CONFIG, "cpu", torch.float32), Traced()
    network.graphs = Graphs(recorder)
    said = time_generation.far(network, wait, at=1_100)
    assert re.fullmatch(r"One row at place 1,100: \d+\.\d\d ms up to the head\.", said)
    assert recorder.repeated > 16


def test_steps_are_recorded_before_they_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    network, recorder = network_of(CONFIG, "cpu", torch.float32), Traced()
    network.graphs = Graphs(recorder)
    monkeypatch.setattr(time_generation, "PROMPT", 8)
    monkeypatch.setattr(time_generation, "TOKENS", 8)

    def traced(step: Callable[[], object]) -> list[int]:
        before = recorder.repeated
        step()
        return [before, recorder.repeated]

    monkeypatch.setattr(time_generation.kernel_times, "traced", traced)
    assert time_generation.trace(network) == [1, 2]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that there is a GPU that was timed, and that this is docs/benchmarks.md."""
    path = tmp_path / "benchmarks.md"
    for name, value in {
        "PAGE": path,
        "open_graphs": lambda device: Graphs(Traced()),
        "copy_rate": lambda *_: 4e12,
        "network_of": lambda *_: None,
        "measure": lambda *_: iter(TIMED),
        "trace": lambda _: [],
        "far": lambda *_: "One row far on.",
    }.items():
        monkeypatch.setattr(time_generation, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(time_generation.machine, "heading", lambda what: f"## {what}")
    return path


@pytest.mark.parametrize("wrong", [[], ["--wrong", "failed: test"]])
def test_the_report_is_kept_and_published_unless_something_is_wrong(
    page: Path, monkeypatch: pytest.MonkeyPatch, wrong: list[str]
) -> None:
    more = page.with_name("more.md")
    monkeypatch.setattr(sys, "argv", ["time_generation", "--save", str(more), *wrong])
    time_generation.main()
    assert more.read_text().startswith("## decoding the 7B shape\n")
    assert ("failed: test" in more.read_text()) == bool(wrong)
    assert page.exists() == (not wrong)


def test_without_a_gpu_there_is_nothing_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["time_generation"])
    with pytest.raises(SystemExit, match="no GPU here"):
        time_generation.main()
