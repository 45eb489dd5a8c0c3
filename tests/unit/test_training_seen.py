"""What a run leaves to be seen: lines that stay, the most memory, the picture of its loss."""

from __future__ import annotations

import json
import time
from math import inf, nan
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from llama_cli.training import plot
from llama_cli.training.log import NAME, RunLog, read_log
from llama_cli.training.memory import peak_memory, resident
from llama_cli.training.plot import PICTURE, Picture, curves, save_curves


def write(run: Path, *lines: Any) -> None:
    (run / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_lines_about_spikes_stay_and_the_end_goes_when_a_run_continues(tmp_path: Path) -> None:
    spike = {"step": 3, "spike": "skip", "batches": [4, 4], "why": ""}
    write(tmp_path, {"run": {}}, {"step": 1}, {"step": 2}, spike, {"step": 2, "end": "stopped"})
    RunLog(tmp_path, about={}, step=1).close()
    assert list(read_log(tmp_path / NAME)) == [{"run": {}}, {"step": 1}, spike]


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_no_number_is_null_for_every_reader(tmp_path: Path, bad: float) -> None:
    log = RunLog(tmp_path, about={}, step=0)
    log.write({"step": 1, "grad_norm": bad, "why": "x"})
    log.close()
    text = (tmp_path / NAME).read_bytes().splitlines()[-1]
    assert orjson.loads(text) == {"step": 1, "grad_norm": None, "why": "x"}


def test_a_validation_loss_that_is_none_is_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, {"step": 1, "validation_loss": None}, {"step": 2, "validation_loss": 3.0})
    assert curves(tmp_path) == ([], [(2, 3.0)])


def test_the_most_memory_is_that_of_this_process() -> None:
    block = torch.ones(50_000_000)  # 200 MB, touched
    held = peak_memory(torch.device("cpu"))
    assert held > block.numel() * 4
    del block
    assert peak_memory(torch.device("cpu")) > 0.99 * held  # the kernel counts in lumps


def test_the_most_memory_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmPeak:\t  9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n")
    assert resident(tmp_path / "status") == 2048 * 1024
    assert resident(tmp_path / "none") > 1_000_000  # by getrusage


def test_the_picture_is_there_once_there_is_a_step(tmp_path: Path) -> None:
    save_curves(tmp_path, "tiny")
    assert not list(tmp_path.iterdir())
    write(tmp_path, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    save_curves(tmp_path, "tiny")
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, PICTURE]


def test_the_picture_is_drawn_beside_training_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    class Process:
        ended = False

        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command)

        def poll(self) -> int | None:
            return 0 if self.ended else None

        def kill(self) -> None:
            started.append("killed")

        def wait(self) -> None:
            pass

    monkeypatch.setattr(plot.subprocess, "Popen", Process)
    now = [0.0]
    picture = Picture(tmp_path, "tiny", lambda: now[0])
    for seconds, count in ((0, 0), (59, 0), (61, 1), (130, 1)):  # the first is still at it
        now[0] = seconds
        picture.refresh()
        assert len(started) == count
    Process.ended = True
    picture.refresh()
    assert len(started) == 2
    picture.close()
    assert started[-1] == "killed"


def test_the_picture_comes_from_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "SECONDS", -1.0)
    write(tmp_path, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0})
    picture = Picture(tmp_path, "tiny", lambda: 0.0)
    start = time.perf_counter()
    picture.refresh()
    assert time.perf_counter() - start < 0.5  # matplotlib alone takes longer
    for _ in range(600):
        if (tmp_path / PICTURE).exists():
            break
        time.sleep(0.1)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    picture.close()
    picture.close()
