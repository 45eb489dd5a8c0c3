"""Which model and device a command takes when it is not told."""

import os
from pathlib import Path

import pytest
import torch

from llama_cli.commands._model import _device, newest_checkpoint
from llama_cli.errors import NotReadyError, UsageError
from llama_cli.stream.run import Run, Settings
from tests.tiny import tiny_checkpoint

RUN = Run(Settings("generate"))


def made_at(path: Path, seconds: int) -> Path:
    tiny_checkpoint(path)
    os.utime(path / "params.json", (seconds, seconds))
    return path


def test_the_newest_checkpoint_of_all_runs_is_taken(tmp_path):
    newest = made_at(tmp_path / "a" / "checkpoint-0000001", 2000)
    made_at(tmp_path / "b" / "deep" / "checkpoint-0000009", 1000)
    assert newest_checkpoint(tmp_path) == newest


def test_a_checkpoint_that_is_half_or_still_hidden_is_passed_over(tmp_path):
    whole = made_at(tmp_path / "a" / "checkpoint-0000001", 1000)
    made_at(tmp_path / "a" / ".checkpoint-0000002.part", 2000)
    half = made_at(tmp_path / "a" / "checkpoint-0000003", 3000) / "model.safetensors"
    half.write_bytes(half.read_bytes()[:-1])
    assert newest_checkpoint(tmp_path) == whole


@pytest.mark.parametrize("runs", ["absent", "."])
def test_no_checkpoint_says_what_makes_one(tmp_path, runs):
    with pytest.raises(NotReadyError, match="no model under") as error:
        newest_checkpoint(tmp_path / runs)
    assert error.value.hint == "llama train --size 3m --run runs/first"


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_used_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert _device(RUN, "auto") == device
    assert _device(RUN, "cpu") == "cpu"


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotReadyError, match="no CUDA device here"):
        _device(RUN, "cuda:1")


def test_a_device_of_no_kind_is_an_error():
    with pytest.raises(UsageError, match="no device 'abacus'"):
        _device(RUN, "abacus")
