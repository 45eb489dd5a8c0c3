"""Runs with batches on which the loss is no number: skipped, gone back from, or ended by."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llama_cli.errors import Interrupted, LlamaError
from llama_cli.model.weights import find_checkpoint
from llama_cli.training import build, loop, spike
from llama_cli.training import run as run_module
from llama_cli.training.checkpoint import glance
from llama_cli.training.data import Sequences
from llama_cli.training.job import Job, Way
from llama_cli.training.log import Line, RunLog, read_log
from llama_cli.training.run import train
from tests.unit.planted import plant, write_batches
from tests.unit.test_training_run import names, stop_after
from tests.unit.training import CONFIG, SETTINGS, Ear

STEPS = 8
BATCHES = range(1, 40)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "draw_weights", loop.draw_weights)  # put back at the end
    monkeypatch.setattr(run_module, "save_curves", lambda run, title: None)  # takes a second
    monkeypatch.setattr(build, "peak_flops", lambda *_: (1e12, "nothing"))
    torch.set_num_threads(1)
    plant()


def job(
    tmp_path: Path,
    choice: spike.Choice | None,
    *,
    bad: Iterable[int] = (),
    without: Iterable[int] = (),
    name: str = "run",
    every: int = 2,
) -> Job:
    """Train on batches some of which are bad, or are not there at all."""
    bad, without = set(bad), set(without)
    data = tmp_path / f"data-{sorted(bad)}-{sorted(without)}"
    if not data.exists():
        write_batches(data, (batch for batch in BATCHES if batch not in without), bad)
    (tmp_path / name).mkdir(exist_ok=True)
    return Job(
        tmp_path / name,
        "tiny",
        CONFIG,
        replace(SETTINGS, steps=STEPS),
        Sequences(data),
        way=Way(checkpoint_every=every, on_spike=choice),
    )


def final(run: Path) -> dict[str, torch.Tensor]:
    """Give the last weights; the planted embedding is compared as a zero."""
    held = load_file(find_checkpoint(run) / "model.safetensors")
    return {name: weight.nan_to_num(0.0) for name, weight in held.items()}


def same(one: Path, other: Path) -> bool:
    left, right = final(one), final(other)
    return all(torch.equal(left[name], right[name]) for name in left)


def without(tmp_path: Path, batches: Iterable[int]) -> Path:
    """Train on data in which these batches have never been."""
    wanted = job(tmp_path, None, without=batches, name=f"without-{sorted(batches)}")
    train(wanted, Ear().listener())
    return wanted.run


def spikes(run: Path) -> list[Line]:
    return [line for line in read_log(run / "log.jsonl") if "spike" in line]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = read_log(run / "log.jsonl")
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.mark.parametrize("bad", [1, 5, STEPS])
def test_a_batch_that_is_skipped_might_as_well_not_have_been_there(
    tmp_path: Path, bad: int
) -> None:
    wanted, ear = job(tmp_path, "skip", bad=[bad]), Ear()
    assert train(wanted, ear.listener())
    assert same(wanted.run, without(tmp_path, [bad]))
    assert losses(wanted.run) == losses(tmp_path / f"without-[{bad}]")
    why = "the loss is not a number"
    assert spikes(wanted.run) == [
        {"step": bad - 1, "spike": "skip", "batches": [bad, bad], "why": why}
    ]
    assert ear == [f"step {bad}: {why}; batch {bad} is left out"]


@pytest.mark.parametrize(
    ("bad", "back", "left"), [(1, 0, [1]), (2, 0, [1, 2]), (5, 4, [5]), (6, 4, [5, 6])]
)
def test_a_rewind_leaves_out_the_batches_since_the_checkpoint(
    tmp_path: Path, bad: int, back: int, left: list[int]
) -> None:
    wanted, ear = job(tmp_path, "rewind", bad=[bad]), Ear()
    assert train(wanted, ear.listener())
    assert same(wanted.run, without(tmp_path, left))
    assert losses(wanted.run) == losses(tmp_path / f"without-{left}")
    (line,) = spikes(wanted.run)
    assert (line["step"], line["batches"]) == (back, [left[0], left[-1]])
    assert f"back to step {back}, batches {left[0]} to {left[-1]} are left out" in ear[0]


def test_several_bad_batches_are_all_left_out(tmp_path: Path) -> None:
    for choice, gone in (("skip", [2, 3, 7]), ("rewind", [1, 2, 3, 6, 7])):
        wanted = job(tmp_path, choice, bad=[2, 3, 7], name=choice)  # type: ignore[arg-type]
        assert train(wanted, Ear().listener())
        assert same(wanted.run, without(tmp_path, gone))


@pytest.mark.parametrize("choice", ["stop", None])
def test_a_stop_saves_nothing_more_and_says_what_may_help(
    tmp_path: Path, choice: spike.Choice | None
) -> None:
    wanted = job(tmp_path, choice, bad=[6])
    with pytest.raises(LlamaError, match=r"^step 6: the loss is not a number$") as caught:
        train(wanted, Ear().listener())
    assert "--on-spike rewind or skip" in (caught.value.hint or "")
    assert names(wanted.run) == ["checkpoint-0000002", "checkpoint-0000004"]
    *_, before, last = read_log(wanted.run / "log.jsonl")
    assert before["spike"] == "stop"
    assert last == {"step": 5, "end": "stopped", "why": "step 6: the loss is not a number"}


def test_a_stopped_run_goes_on_with_another_choice(tmp_path: Path) -> None:
    with pytest.raises(LlamaError):
        train(job(tmp_path, "stop", bad=[6]), Ear().listener())
    wanted = job(tmp_path, "skip", bad=[6])
    assert train(wanted, Ear().listener())
    assert same(wanted.run, without(tmp_path, [6]))


class Killed(BaseException):
    """Ends a run as kill -9 would: nothing is written any more."""


class Killer:
    """Kill at one of the moments when something is written, moved or removed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at = 0, 0
        for owner, name in (
            *((os, "fsync"), (shutil, "rmtree"), (RunLog, "write")),
            *((Path, "rename"), (Path, "mkdir"), (Path, "write_text")),
        ):
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            self.count += 1
            if 0 < self.at <= self.count:
                raise Killed
            return function(*args, **options)

        return watched

    def is_killed(self, job: Job, at: int) -> bool:
        """Run up to one of the moments; say whether there is one so late."""
        self.count, self.at = 0, at
        try:
            train(job, Ear().listener())
        except Killed:
            return True
        finally:
            self.at = 0
        return False


def in_turn(found: Job) -> Job:
    """Write its checkpoints between steps: a thread would outlive what stands for a process."""
    return replace(found, way=replace(found.way, async_checkpoints=False))


@pytest.mark.parametrize(("choice", "first"), [("skip", 1), ("rewind", 2), ("rewind", 3)])
def test_a_run_killed_anywhere_ends_with_the_same_bits(
    tmp_path: Path, choice: spike.Choice, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = Killer(monkeypatch)
    whole = in_turn(job(tmp_path, choice, bad=[3, 6], name="whole", every=3))
    assert not killer.is_killed(whole, 0)
    moments = killer.count
    assert moments > 50
    for moment in range(first, moments, 3):
        wanted = in_turn(job(tmp_path, choice, bad=[3, 6], name=f"killed-{moment}", every=3))
        assert killer.is_killed(wanted, moment)
        train(wanted, Ear().listener())
        assert same(wanted.run, whole.run), moment
        assert losses(wanted.run) == losses(whole.run), moment
        assert spikes(wanted.run) == spikes(whole.run), moment


@pytest.mark.parametrize("choice", ["skip", "rewind"])
@pytest.mark.parametrize("kept", [1, 2])
def test_checkpoints_of_runs_that_were_stopped_change_nothing(
    tmp_path: Path, choice: spike.Choice, kept: int
) -> None:
    """A rewind goes to a checkpoint of --checkpoint-every, which is kept for it."""

    def wanted(name: str) -> Job:
        found = job(tmp_path, choice, bad=[4, 7], name=name, every=3)
        return replace(found, way=replace(found.way, keep=kept))

    train(wanted("whole"), Ear().listener())
    for step in range(1, STEPS):
        stopped = wanted(f"stopped-{step}")
        with pytest.raises(Interrupted):
            train(stopped, stop_after(step))
        if step < STEPS - 1:
            with pytest.raises(Interrupted):
                train(stopped, stop_after(step + 1, signal.SIGTERM))
        assert train(stopped, Ear().listener())
        assert same(stopped.run, tmp_path / "whole"), step
        assert losses(stopped.run) == losses(tmp_path / "whole"), step


def test_a_checkpoint_of_steps_that_were_undone_is_not_continued_from(tmp_path: Path) -> None:
    """Killed after the decision was on the disk, and before the later checkpoint was gone."""
    wanted = job(tmp_path, "rewind", bad=[6], every=4)
    with pytest.raises(Interrupted):
        train(wanted, stop_after(5))
    assert names(wanted.run) == ["checkpoint-0000004", "checkpoint-0000005"]
    spike.Skipped([spike.Left(5, 6, 4, "rewind", "")]).save(wanted.run)
    ear = Ear()
    assert train(wanted, ear.listener())
    assert ear == ["continuing after step 4 of 8"]
    assert same(wanted.run, without(tmp_path, [5, 6]))


def test_a_list_that_is_lost_is_in_the_checkpoints_too(tmp_path: Path) -> None:
    wanted = job(tmp_path, "skip", bad=[3])
    with pytest.raises(Interrupted):
        train(wanted, stop_after(5))
    (wanted.run / "skipped.json").unlink()
    train(wanted, Ear().listener())
    assert same(wanted.run, without(tmp_path, [3]))


def test_an_older_checkpoint_leads_to_the_same_bits(tmp_path: Path) -> None:
    wanted = job(tmp_path, "rewind", bad=[6])
    train(wanted, Ear().listener())
    before = final(wanted.run)
    (glance(wanted.run) / "optimizer.safetensors").unlink()  # type: ignore[operator]
    assert train(wanted, Ear().listener())
    after = final(wanted.run)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_many_bad_batches_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="after 10 batches in a row were left out"):
        train(job(tmp_path, "skip", bad=range(3, 40)), Ear().listener())


def test_many_rewinds_to_one_checkpoint_end_the_run(tmp_path: Path) -> None:
    wanted = job(tmp_path, "rewind", bad=range(4, 40))
    with pytest.raises(LlamaError, match="as often before after step 2"):
        train(wanted, Ear().listener())
    assert len(spikes(wanted.run)) == spike.FROM_ONE
    assert glance(wanted.run) == wanted.run / "checkpoint-0000002"


@pytest.fixture
def touchy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a loss for a spike that is not a good deal below those before it."""
    for name, value in (("FEWEST", 2), ("SIGMAS", -1.8), ("NATS", -9.0), ("TIMES", 1e9)):
        monkeypatch.setattr(spike, name, value)


@pytest.mark.usefixtures("touchy")
def test_without_a_choice_a_spike_is_noted_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, ear = job(tmp_path, None), Ear()
    assert train(wanted, ear.listener())
    found = spikes(wanted.run)
    assert {line["spike"] for line in found} == {"noted"}
    assert len(found) == len(ear) > 0
    monkeypatch.setattr(spike, "FEWEST", 99)
    other = job(tmp_path, None, name="other")
    train(other, Ear().listener())
    assert same(wanted.run, other.run)


@pytest.mark.usefixtures("touchy")
def test_a_spike_of_numbers_stops_skips_and_rewinds_too(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match=r"step \d: the loss of \d\.\d+ is over \d"):
        train(job(tmp_path, "stop", name="stop"), Ear().listener())
    for choice in ("skip", "rewind"):
        wanted = job(tmp_path, choice, name=choice)  # type: ignore[arg-type]
        assert train(wanted, Ear().listener())
        spans = [line["batches"] for line in spikes(wanted.run)]
        gone = [batch for first, last in spans for batch in range(first, last + 1)]
        assert gone
        assert same(wanted.run, without(tmp_path, gone))


def test_the_last_line_says_how_the_run_ended(tmp_path: Path) -> None:
    wanted = job(tmp_path, None)
    with pytest.raises(Interrupted):
        train(wanted, stop_after(3))
    *_, last = read_log(wanted.run / "log.jsonl")
    assert last["end"] == "stopped"
    assert last["why"].startswith("stopped after step 3")
    train(wanted, Ear().listener())
    ends = [line for line in read_log(wanted.run / "log.jsonl") if "end" in line]
    assert ends == [{"step": STEPS, "end": "finished"}]


def test_checkpoints_are_in_the_log_and_know_what_judges_spikes(tmp_path: Path) -> None:
    wanted = job(tmp_path, None)
    train(wanted, Ear().listener())
    lines = [line for line in read_log(wanted.run / "log.jsonl") if "checkpoint" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert lines[-1]["checkpoint"] == "checkpoint-0000008"
    held = json.loads((wanted.run / "checkpoint-0000008/trainer.json").read_text())
    assert held["recent"]["losses"] == [loss for _, loss in losses(wanted.run)]


Watts = Callable[[], float | None]


@pytest.mark.parametrize(("watts", "logged"), [(lambda: 87.65, 87.7), (lambda: None, None)])
def test_watts_are_what_the_meter_says(tmp_path: Path, watts: Watts, logged: float) -> None:
    ear = Ear()
    train(job(tmp_path, None), replace(ear.listener(), watts=watts))
    assert {line["watts"] for line in ear.lines if "loss" in line} == {logged}
