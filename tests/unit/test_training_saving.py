"""Checkpoints written beside training: what is in them, and what happens when they fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore

from llama_cli.errors import Interrupted, LlamaError, NotReadyError
from llama_cli.model.manifest import read_manifest
from llama_cli.model.stored import Slice
from llama_cli.model.weights import find_checkpoint
from llama_cli.parallel.mesh import ONE, Mesh
from llama_cli.training import saving
from llama_cli.training.checkpoint import first_damaged, glance, hidden
from llama_cli.training.job import Job, Listener
from llama_cli.training.log import RunLog, read_log
from llama_cli.training.run import train
from llama_cli.training.saving import Saver, Shelf
from llama_cli.training.start import Start
from tests.unit.training import CONFIG, Ear, job, save, trainer


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("*checkpoint*"))


def lines(wanted: Job, name: str) -> list[Any]:
    return [line[name] for line in read_log(wanted.run / "log.jsonl") if name in line]


def final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "model.safetensors")


class Gate:
    """Hold the thread that writes until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        write = saving.write_slices

        def held(*arguments: Any) -> Any:
            self.reached.set()
            assert self.open.wait(60)
            return write(*arguments)

        monkeypatch.setattr(saving, "write_slices", held)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, ear, wanted = Gate(monkeypatch), Ear(), job(tmp_path)
    wanted = replace(wanted, way=replace(wanted.way, checkpoint_every=3))
    seen = []

    def on_line(line: dict[str, Any]) -> None:
        seen.append(line)
        if line["step"] == 5 and "loss" in line:  # two steps after the first began
            assert gate.reached.is_set()
            assert not list(wanted.run.glob("checkpoint-*"))
            gate.open.set()

    assert train(wanted, Listener(ear.clock, ear.clock, ear.append, on_line))  # type: ignore[arg-type]
    assert names(wanted.run) == ["checkpoint-0000003", "checkpoint-0000006"]
    assert [line["step"] for line in seen if "checkpoint" in line] == [3, 6]


def test_what_is_written_is_of_its_step_and_not_of_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, found = Gate(monkeypatch), trainer()
    before = {name: weight.detach().clone() for name, weight in found.model.named_parameters()}
    saver = Saver(Shelf(tmp_path, ONE, CONFIG, None), asynchronous=True)
    saver.begin(1, found, {})
    with torch.no_grad():
        for weight in found.model.parameters():
            weight.zero_()
    assert not saver._writing.done  # type: ignore[union-attr]
    gate.open.set()
    saver.settle()
    held = load_file(tmp_path / "checkpoint-0000001" / "model.safetensors")
    assert all(torch.equal(held[name], before[name]) for name in before)


def test_a_manifest_lists_every_file(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 1, trainer())
    held = read_manifest(checkpoint)
    assert held is not None
    present = {path.name for path in checkpoint.iterdir()}
    assert held.keys() == present - {"manifest.json"}
    assert all(held[name].bytes == (checkpoint / name).stat().st_size for name in held)
    assert first_damaged(checkpoint) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_a_byte_that_changed_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str
) -> None:
    whole, torn = job(tmp_path, "whole"), job(tmp_path, "torn")
    train(whole, Ear().listener())
    with pytest.raises(Interrupted):
        train(torn, stop_after(5))
    assert names(torn.run) == ["checkpoint-0000004", "checkpoint-0000005"]
    path = torn.run / "checkpoint-0000005" / name
    held = path.read_bytes()
    other = held.replace(b'"seed": 0', b'"seed": 1') if name == "trainer.json" else held[:-1] + b"?"
    assert len(other) == len(held)
    assert other != held
    path.write_bytes(other)
    ear = Ear()
    assert train(torn, ear.listener())
    aside = ".checkpoint-0000005.damaged"
    said = f"{path} is damaged: going back to the one before; set aside as {aside}"
    assert ear == [said, "continuing after step 4 of 6"]
    assert (torn.run / aside / name).read_bytes() == other
    assert all(torch.equal(x, final(whole.run)[name]) for name, x in final(torn.run).items())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": []}', '{"files": {"a": {"b": 1}}}'])
def test_a_checkpoint_with_a_damaged_manifest_is_passed_over(tmp_path: Path, text: str) -> None:
    good = save(tmp_path, 1, trainer())
    (save(tmp_path, 2, trainer()) / "manifest.json").write_text(text)
    assert glance(tmp_path) == good


def test_without_its_optimizer_a_checkpoint_is_still_a_model(tmp_path: Path) -> None:
    (save(tmp_path, 1, trainer()) / "optimizer.safetensors").unlink()
    assert glance(tmp_path) is None
    assert find_checkpoint(tmp_path).name == "checkpoint-0000001"


def test_a_checkpoint_of_an_older_version_is_continued_from(tmp_path: Path) -> None:
    whole, older = job(tmp_path, "whole"), job(tmp_path, "older")
    train(whole, Ear().listener())
    with pytest.raises(Interrupted):
        train(older, stop_after(3))
    for checkpoint in older.run.glob("checkpoint-*"):
        (checkpoint / "manifest.json").unlink()
    assert train(older, Ear().listener())
    assert all(torch.equal(x, final(whole.run)[name]) for name, x in final(older.run).items())


def stop_after(step: int, number: signal.Signals = signal.SIGTERM) -> Listener:
    ear = Ear()

    def on_line(line: dict[str, Any]) -> None:
        if line["step"] == step and "loss" in line:
            os.kill(os.getpid(), number)

    return Listener(ear.clock, ear.clock, ear.append, on_line)  # type: ignore[arg-type]


def test_sigusr1_saves_and_ends_as_sigterm_does(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="stopped after step 3, with a checkpoint") as caught:
        train(job(tmp_path), stop_after(3, signal.SIGUSR1))
    assert caught.value.exit_code == 75
    assert names(tmp_path / "run")[-1] == "checkpoint-0000003"


# what goes wrong


def little_room(monkeypatch: pytest.MonkeyPatch, *, from_call: int = 1, to_call: int = 99) -> None:
    """Let the disk be nearly full at some of the looks at it."""
    usage, calls = shutil.disk_usage, []

    def found(path: Path) -> Any:
        calls.append(path)
        few = from_call <= len(calls) <= to_call
        return usage(path)._replace(free=1000) if few else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", found)


def test_without_room_a_checkpoint_is_not_begun_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little_room(monkeypatch, to_call=1)
    wanted, ear = job(tmp_path), Ear()
    assert train(wanted, ear.listener())
    why = "it takes 0.00 GB, and 0.00 GB are free"
    assert ear == [f"the checkpoint of step 2 failed: {why}"]
    assert lines(wanted, "checkpoint_failed") == [why]
    assert names(wanted.run) == ["checkpoint-0000004", "checkpoint-0000006"]


def test_a_last_checkpoint_without_room_is_an_error_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job(tmp_path, "whole")
    train(whole, Ear().listener())
    little_room(monkeypatch, from_call=3)
    wanted = job(tmp_path)
    with pytest.raises(LlamaError, match=r"^the last step, 6, is not saved: it takes"):
        train(wanted, Ear().listener())
    assert names(wanted.run) == ["checkpoint-0000002", "checkpoint-0000004"]
    monkeypatch.undo()
    assert train(wanted, Ear().listener())
    assert all(torch.equal(x, final(whole.run)[name]) for name, x in final(wanted.run).items())


def test_a_stop_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little_room(monkeypatch, from_call=2)
    with pytest.raises(Interrupted, match=r"stopped after step 3, which is not saved: it takes"):
        train(job(tmp_path), stop_after(3))
    assert names(tmp_path / "run") == ["checkpoint-0000002"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("odd")])
def test_a_thread_that_fails_leaves_nothing_and_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(saving, "write_slices", broken)
    told: list[Any] = []
    saver = Saver(Shelf(tmp_path, ONE, CONFIG, None), told.append, asynchronous=True)
    saver.begin(1, trainer(), {})
    saver.settle()
    assert [each.why_not for each in told] == [getattr(error, "strerror", None) or "odd"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_manifest_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def broken(*arguments: Any) -> Any:
        raise kind("No space left on device")

    monkeypatch.setattr(saving, "publish", broken)
    saver = Saver(Shelf(tmp_path, ONE, CONFIG, None), asynchronous=True)
    saver.begin(1, trainer(), {})
    saver.settle()
    assert saver.last is not None
    assert saver.last.why_not == "No space left on device"
    assert not list(tmp_path.iterdir())


def test_no_memory_for_the_copy_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nat ...")

    monkeypatch.setattr(saving, "_owned", broken)
    saver = Saver(Shelf(tmp_path, ONE, CONFIG, None), asynchronous=True)
    saver.begin(1, trainer(), {})

    saver.settle()
    assert saver.last is not None
    assert saver.last.why_not == "DefaultCPUAllocator: can't allocate memory"


def test_the_log_waits_for_room(tmp_path: Path) -> None:
    log = RunLog(tmp_path, about={}, step=0)
    log._file = Full(log._file, fails=2)  # type: ignore[assignment]
    for step in (1, 2, 3):
        log.write({"step": step})
    log.close()
    held = list(read_log(tmp_path / "log.jsonl"))
    assert [line["step"] for line in held if "step" in line] == [1, 2, 3]


class Full:
    """A file on a disk that is full for the first writes, and then takes a few bytes at a time."""

    def __init__(self, file: Any, fails: int) -> None:
        self.file, self.fails = file, fails

    def write(self, data: bytes) -> int:
        self.fails -= 1
        if self.fails >= 0:
            raise OSError(28, "No space left on device")
        return int(self.file.write(data[:7]))

    def close(self) -> None:
        self.file.close()


def test_what_decides_a_run_is_in_its_checkpoints(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    train(wanted, Ear().listener())
    held = json.loads((find_checkpoint(wanted.run) / "trainer.json").read_text())
    assert held["step"] == 6
    assert {"seed", "steps", "lr", "warmup", "data"} <= held.keys()


def test_a_directory_that_other_machines_do_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines with a disk each: the first rank's settings are not seen by all."""
    monkeypatch.setattr(Mesh, "gathered", lambda self, value: [value, False])
    with pytest.raises(LlamaError, match="is not the same directory on all machines"):
        train(job(tmp_path), Ear().listener())


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_file_cut_short_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(5))
    shorten(tmp_path / "run/checkpoint-0000005/optimizer.safetensors")
    ear = Ear()
    assert train(job(tmp_path), ear.listener())
    assert "checkpoint-0000005/optimizer.safetensors is damaged" in ear[0]
    assert ear[1] == "continuing after step 4 of 6"


def test_a_run_whose_only_checkpoint_is_damaged_does_not_begin_anew_by_itself(
    tmp_path: Path,
) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(1))
    shorten(tmp_path / "run/checkpoint-0000001/model.safetensors")
    with pytest.raises(LlamaError, match=r"model\.safetensors is damaged, and no older") as caught:
        train(job(tmp_path), Ear().listener())
    assert caught.value.hint == "llama train --run ANOTHER"
    assert names(tmp_path / "run") == ["checkpoint-0000001"]


def test_settings_that_were_lost_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(1))
    wanted = job(tmp_path)
    (wanted.run / "settings.json").unlink()
    other = replace(wanted, settings=replace(wanted.settings, lr=0.5))
    with pytest.raises(LlamaError, match="run holds a run with lr"):
        train(other, Ear().listener())
    assert train(wanted, Ear().listener())


def test_a_manifest_that_leaves_a_file_out_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, 1, trainer()) / "manifest.json"
    held = json.loads(path.read_text())
    del held["files"]["optimizer.safetensors"]
    path.write_text(json.dumps(held))
    assert glance(tmp_path) is None


def test_a_log_of_other_bytes_is_cut_off_and_stops_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(3))
    with (tmp_path / "run/log.jsonl").open("ab") as file:
        file.write(bytes(range(128, 256)))
    assert train(job(tmp_path), Ear().listener())


def test_weights_to_begin_with_are_compared_with_their_hashes(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, 1, trainer())
    start = Start.find(checkpoint)
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(NotReadyError, match=r"model\.safetensors is damaged"):
        start.load(trainer())


def test_a_damaged_checkpoint_takes_no_place_among_those_kept(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    wanted = replace(wanted, way=replace(wanted.way, keep=1))
    train_keep_two = replace(wanted, way=replace(wanted.way, keep=2))
    with pytest.raises(Interrupted):
        train(train_keep_two, stop_after(5))
    shorten(wanted.run / "checkpoint-0000005/model.safetensors")
    assert train(wanted, Ear().listener())
    assert names(wanted.run) == [".checkpoint-0000005.damaged", "checkpoint-0000006"]


def test_a_directory_that_cannot_be_removed_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that a reader holds open on a network disk may stay."""
    save(tmp_path, 1, trainer())

    def stuck(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", stuck)
    save(tmp_path, 1, trainer())
    assert glance(tmp_path) == tmp_path / "checkpoint-0000001"
    assert first_damaged(tmp_path / "checkpoint-0000001") is None


# several ranks, without processes: what their threads tell each other


def written(tmp_path: Path, *, fails: int | None = None) -> list[saving._Writing]:
    """Let two ranks, each with half the model, write a checkpoint; one may fail."""
    part, store = hidden(tmp_path, 1, "x"), HashStore()
    part.mkdir()
    found = list(trainer().slices())
    ranks = []
    for rank in (1, 0):
        mesh = Mesh(data=2, rank=rank, store=store)
        half = found[rank::2] if rank != fails else [odd(found[rank])]
        ranks.append(saving._Writing(Shelf(tmp_path, mesh, CONFIG, None), 1, part, "{}", None))
        ranks[-1].start(half, asynchronous=True)
    for each in ranks:
        each.join()
    return ranks


def odd(held: Slice) -> Slice:
    return replace(held, tensor=held.tensor.to(torch.int8))  # a dtype that is not written


def test_what_two_ranks_write_is_one_checkpoint(tmp_path: Path) -> None:
    assert [each.why_not for each in written(tmp_path)] == [None, None]
    held = read_manifest(tmp_path / "checkpoint-0000001")
    assert held is not None
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= held.keys()
    assert first_damaged(tmp_path / "checkpoint-0000001") is None


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_cannot_write_is_no_checkpoint(tmp_path: Path, rank: int) -> None:
    other, first = written(tmp_path, fails=rank)
    assert first.why_not
    assert bool(other.why_not) == (rank == 1)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    part = hidden(tmp_path, 1, "x")
    part.mkdir()
    mesh = Mesh(data=2, rank=0, store=HashStore())
    writing = saving._Writing(Shelf(tmp_path, mesh, CONFIG, None), 1, part, "{}", None)
    writing.start(list(trainer().slices()), asynchronous=True)
    assert writing.wrote.wait(60)
    assert not writing.done
    writing.given_up.set()
    writing.join(60)
    assert writing.why_not == "given up"
    assert not list(tmp_path.iterdir())
