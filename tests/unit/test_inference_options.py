"""Which model and device a command takes when it is not told."""

import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from llama_cli.commands._model import load_engine, newest_checkpoint, pick_device
from llama_cli.errors import NotReadyError, UsageError
from llama_cli.kernels import host
from llama_cli.model.formats import open_source
from tests.tiny import tiny_checkpoint


def made_at(path: Path, seconds: int) -> Path:
    tiny_checkpoint(path)
    os.utime(path / "params.json", (seconds, seconds))
    return path


def test_the_newest_checkpoint_of_all_runs_is_taken(tmp_path: Path) -> None:
    newest = made_at(tmp_path / "a" / "checkpoint-0000001", 2000)
    made_at(tmp_path / "b" / "deep" / "checkpoint-0000009", 1000)
    assert newest_checkpoint(tmp_path) == newest


def test_a_checkpoint_that_is_half_or_still_hidden_is_passed_over(tmp_path: Path) -> None:
    whole = made_at(tmp_path / "a" / "checkpoint-0000001", 1000)
    made_at(tmp_path / "a" / ".checkpoint-0000002.part", 2000)
    half = made_at(tmp_path / "a" / "checkpoint-0000003", 3000) / "model.safetensors"
    half.write_bytes(half.read_bytes()[:-1])
    assert newest_checkpoint(tmp_path) == whole


@pytest.mark.parametrize("runs", ["absent", "."])
def test_no_checkpoint_says_what_makes_one(tmp_path: Path, runs: str) -> None:
    with pytest.raises(NotReadyError, match="no model under") as error:
        newest_checkpoint(tmp_path / runs)
    assert error.value.hint == "llama train --size 3m --run runs/first"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that there are so many."""
    monkeypatch.setattr("llama_cli.commands._model.DRIVERS", ("/dev/null",))

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(("there", "device"), [(1, "cuda"), (0, "cpu")])
def test_a_gpu_is_used_where_there_is_one(
    gpus: Callable[[int], None], there: int, device: str
) -> None:
    gpus(there)
    assert pick_device("auto", "eval") == device
    assert pick_device("cpu", "eval") == "cpu"


@pytest.mark.parametrize(
    ("there", "name", "message"),
    [
        (0, "cuda", "no CUDA device here"),
        (0, "cuda:1", "no CUDA device here"),
        (2, "cuda:2", "no cuda:2 here, there are 2 from 0 on"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error(
    gpus: Callable[[int], None], there: int, name: str, message: str
) -> None:
    gpus(there)
    with pytest.raises(NotReadyError, match=message) as error:
        pick_device(name, "eval")
    assert error.value.hint == "llama eval --device cpu"


def test_each_gpu_that_is_there_has_a_number(gpus: Callable[[int], None]) -> None:
    gpus(2)
    assert [pick_device(name, "eval") for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]


@pytest.mark.parametrize("name", ["abacus", "meta", "xpu", "cpu:1", "cuda:", "cuda:x"])
def test_a_device_of_no_kind_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}'"):
        pick_device(name, "eval")


def test_pytorch_is_not_asked_for_gpus_where_no_driver_is(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    monkeypatch.setattr("llama_cli.commands._model.DRIVERS", ("/dev/no-such-driver",))
    assert pick_device("auto", "eval") == "cpu"


@pytest.mark.parametrize("missing", [True, False])
def test_a_kernel_that_is_not_there_is_said_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        why = NotReadyError("not built", hint="build it")
        monkeypatch.setattr(host, "lacking", lambda: why)
    run = Mock()
    load_engine(run, open_source(tiny_checkpoint(tmp_path / "model")), "cpu")
    assert [call.args[0] for call in run.say.call_args_list] == missing * [
        "processor kernel not built; PyTorch runs the model, several times slower",
        "  try: build it",
    ]
