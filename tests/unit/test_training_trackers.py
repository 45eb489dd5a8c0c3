"""TensorBoard and Weights & Biases: what they are told, and that they can do no harm."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.training.log import RunLog
from llama_cli.training.trackers import TensorBoard, Trackers, WeightsAndBiases

LINE = {"step": 1, "loss": 2.5, "lr": 0.1, "watts": None}


class Writer:
    """torch.utils.tensorboard.SummaryWriter, as far as it is used."""

    made: list[Writer]

    def __init__(self, directory: str, purge_step: int) -> None:
        self.directory, self.purge_step, self.closed = directory, purge_step, False
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    Writer.made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Writer.made


class Wandb(ModuleType):
    """wandb, as far as it is used; runs are kept by their id."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, SimpleNamespace] = {}
        self.fails: str | None = None

    def Settings(self, **options: Any) -> dict[str, Any]:
        return options

    def init(self, **options: Any) -> SimpleNamespace:
        if self.fails:
            raise RuntimeError(self.fails)
        assert options["resume"] == "allow"
        run = self.runs.setdefault(options["id"], SimpleNamespace(lines=[], ends=[], about={}))
        run.options = options
        run.metrics = []
        run.define_metric = lambda name, **more: run.metrics.append((name, more))
        run.log = run.lines.append
        run.config = SimpleNamespace(update=lambda about, **_: run.about.update(about))
        run.finish = lambda exit_code: run.ends.append(exit_code)
        return run


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


# TensorBoard


def test_the_figures_of_a_line_go_to_tensorboard_at_their_step(
    tmp_path: Path, writers: list[Writer]
) -> None:
    board = TensorBoard(tmp_path)
    assert writers == []
    board.write(LINE)
    board.write({"step": 1, "checkpoint": "checkpoint-0000001"})
    board.write({"step": 1, "validation_loss": 3.0})
    board.close(failed=False)
    (writer,) = writers
    assert writer.directory == str(tmp_path / "tensorboard")
    assert writer.scalars == [("loss", 2.5, 1), ("lr", 0.1, 1), ("validation_loss", 3.0, 1)]
    assert writer.closed


def test_what_tensorboard_held_of_steps_that_are_done_again_is_void(
    tmp_path: Path, writers: list[Writer]
) -> None:
    board = TensorBoard(tmp_path)
    for step in (11, 12, 13, 12):
        board.write({"step": step, "loss": 1.0})
    assert [writer.purge_step for writer in writers] == [11, 12]
    assert writers[0].closed


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="no tensorboard here")
@pytest.mark.filterwarnings("ignore")
def test_the_real_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((1, 6), (4, 8)):  # stopped after 6, continued after 3
        board = TensorBoard(tmp_path)
        for step in range(first, last + 1):
            board.write({"step": step, "loss": float(first)})
        board.close(failed=False)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in found] == [
        *((step, 1.0) for step in (1, 2, 3)),
        *((step, 4.0) for step in (4, 5, 6, 7, 8)),
    ]


# Weights & Biases


def test_a_run_is_logged_with_its_settings_by_its_own_step(tmp_path: Path, wandb: Wandb) -> None:
    found = WeightsAndBiases(tmp_path, "llamas")
    RunLog(tmp_path, about={"size": "3m"}, step=0).close()
    found.write(LINE)
    found.write({"step": 1, "end": "finished", "why": ""})
    found.close(failed=False)
    (run,) = wandb.runs.values()
    assert run.options["project"] == "llamas"
    assert run.about == {"size": "3m"}
    assert run.lines == [{"step": 1, "loss": 2.5, "lr": 0.1}]
    assert ("*", {"step_metric": "step"}) in run.metrics
    assert run.ends == [0]


def test_a_run_that_continues_is_the_same_run(tmp_path: Path, wandb: Wandb) -> None:
    for step in (1, 2):
        found = WeightsAndBiases(tmp_path, "llamas")
        found.write({"step": step, "loss": 1.0})
        found.close(failed=step == 1)
    ((name, run),) = wandb.runs.items()
    assert [line["step"] for line in run.lines] == [1, 2]
    assert run.ends == [1, 0]
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"llamas": name}


def test_another_project_has_another_run(tmp_path: Path, wandb: Wandb) -> None:
    for project in ("llamas", "alpacas", "llamas"):
        WeightsAndBiases(tmp_path, project)
    assert len(wandb.runs) == 2


def test_a_wandb_that_does_not_begin_is_an_error_with_its_cure(
    tmp_path: Path, wandb: Wandb
) -> None:
    wandb.fails = "api_key not\nconfigured"
    with pytest.raises(LlamaError, match="Weights & Biases: api_key not configured") as caught:
        WeightsAndBiases(tmp_path, "llamas")
    assert caught.value.hint == "wandb login, or export WANDB_MODE=offline"


# both


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "wandb"])
def test_one_that_is_not_installed_is_an_error_with_its_cure(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotReadyError, match="is not installed") as caught:
        TensorBoard(tmp_path) if "torch" in module else WeightsAndBiases(tmp_path, "llamas")
    assert caught.value.hint == f"pip install {module.rpartition('.')[2]}"


class Broken:
    name = "Broken"

    def write(self, line: Any) -> None:
        raise OSError("no\nnetwork")

    def close(self, failed: bool) -> None:
        raise OSError("no network")


class Kept(Broken):
    name = "Kept"

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def write(self, line: Any) -> None:
        self.lines.append(line)


def test_a_tracker_that_fails_is_let_go_and_said_once() -> None:
    said: list[str] = []
    kept = Kept()
    trackers = Trackers([Broken(), kept], said.append)
    trackers(LINE)
    trackers(LINE)
    trackers.close()
    assert said == ["Broken failed and gets no more lines: no network"]
    assert kept.lines == [LINE, LINE]
