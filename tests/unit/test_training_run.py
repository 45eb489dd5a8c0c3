"""A run in its directory: checkpoints, log, continuation, signals, lock."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_cli.errors import Interrupted, LlamaError
from llama_cli.model.weights import find_checkpoint
from llama_cli.training.batch import Batch
from llama_cli.training.checkpoint import glance, restore
from llama_cli.training.data import Sequences, Starved
from llama_cli.training.job import Job, Listener, Way
from llama_cli.training.lock import locked
from llama_cli.training.log import RunLog, read_log
from llama_cli.training.plot import curves, draw
from llama_cli.training.run import train
from llama_cli.training.stop import TWICE, stoppable, unsaved
from tests.unit.training import SETTINGS, Ear, job, save, trainer, weights, write_sequences


def final(run: Path) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def stop_after(step: int, number: signal.Signals = signal.SIGTERM) -> Listener:
    """Send a signal to this process when the line of `step` is written."""
    ear = Ear()

    def on_line(line: dict[str, int]) -> None:
        if line["step"] == step and "loss" in line:
            os.kill(os.getpid(), number)

    return Listener(ear.clock, ear.clock, ear.append, on_line)  # type: ignore[arg-type]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("*checkpoint*"))


def test_a_run_leaves_its_log_checkpoints_and_curve(tmp_path: Path) -> None:
    ear, wanted = Ear(), job(tmp_path, tokenizer=b"model")
    assert train(wanted, ear.listener())
    assert names(wanted.run) == ["checkpoint-0000004", "checkpoint-0000006"]
    last = wanted.run / "checkpoint-0000006"
    assert (last / "tokenizer.model").read_bytes() == b"model"
    assert json.loads((last / "trainer.json").read_text())["step"] == 6
    assert (wanted.run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_has_the_run_then_each_step_once(tmp_path: Path) -> None:
    ear, wanted = Ear(), job(tmp_path)
    train(wanted, ear.listener())
    first, *rest = read_log(wanted.run / "log.jsonl")
    assert {"size", "parameters", "device", "processes", "threads"} <= first["run"].keys()
    assert rest == ear.lines
    assert [line["step"] for line in rest if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in rest if "validation_loss" in line] == [0, 3, 6]


def test_a_step_is_logged_with_its_figures(tmp_path: Path) -> None:
    ear = Ear()
    train(job(tmp_path), ear.listener())
    line = next(line for line in ear.lines if line["step"] == 2)
    assert line.keys() == {
        *("step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu", "seconds"),
        *("tokens_per_second_per_gpu", "memory", "watts", "data_wait"),
    }
    assert line["tokens"] == 2 * 4 * 8
    assert line["tokens_per_second"] == 16.0  # by the clock, a second for data, one for the rest
    assert line["lr"] == 1e-2
    assert line["data_wait"] == 1.0
    assert line["memory"] > 50_000_000  # torch alone takes more
    assert line["watts"] is None


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_stopped_run_ends_with_the_bits_of_one_never_stopped(tmp_path: Path, step: int) -> None:
    whole, stopped = job(tmp_path, "whole"), job(tmp_path, "stopped")
    train(whole, Ear().listener())
    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        train(stopped, stop_after(step))
    ear = Ear()
    assert train(stopped, ear.listener())
    assert ear == [f"continuing after step {step} of 6"]
    assert same(final(whole.run), final(stopped.run))
    assert curves(whole.run) == curves(stopped.run)


def test_ctrl_c_saves_a_checkpoint_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), stop_after(3, signal.SIGINT))
    assert names(tmp_path / "run") == ["checkpoint-0000002", "checkpoint-0000003"]


def test_a_signal_during_the_last_step_changes_nothing(tmp_path: Path) -> None:
    assert train(job(tmp_path), stop_after(6))


def test_a_finished_run_is_not_touched(tmp_path: Path) -> None:
    wanted, ear = job(tmp_path), Ear()
    train(wanted, ear.listener())
    log = (wanted.run / "log.jsonl").read_bytes()
    (wanted.run / "loss.png").unlink()
    assert not train(wanted, ear.listener())
    assert (wanted.run / "log.jsonl").read_bytes() == log
    assert (wanted.run / "loss.png").exists()


def changed(found: Job, name: str) -> Job:
    if name == "size":
        return replace(found, size="other")
    if name == "data":
        return replace(found, data=Sequences(write_sequences(found.run / "more", 21)))
    if name == "dim":
        return replace(found, config=replace(found.config, dim=64))
    return replace(found, settings=replace(SETTINGS, **{name: 3}))


@pytest.mark.parametrize("name", ["size", "data", "dim", "steps", "batch", "lr", "warmup", "seed"])
def test_other_settings_in_the_same_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(1))
    with pytest.raises(LlamaError, match=f"run holds a run with .*{name}"):
        train(changed(job(tmp_path), name), Ear().listener())


def test_what_only_changes_the_speed_may_differ(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(job(tmp_path), stop_after(1))
    way = Way(attention="reference", micro_batch=1, keep=1)
    assert train(job(tmp_path, way=way), Ear().listener())
    assert names(tmp_path / "run") == ["checkpoint-0000006"]


def test_a_step_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="step 2: the gradient's norm is not a number") as caught:
        train(job(tmp_path, settings=replace(SETTINGS, lr=1e30)), Ear().listener())
    assert caught.value.hint
    assert "--lr 5e+29" in caught.value.hint


def test_documents_kept_apart_are_another_run(tmp_path: Path) -> None:
    packed = write_sequences(tmp_path / "data")  # its numbers count through both marks
    kept = replace(SETTINGS, cross_document=False)
    one, other = job(tmp_path, "one"), job(tmp_path, "other", settings=kept)
    train(one, Ear().listener())
    train(other, Ear().listener())
    assert not same(final(one.run), final(other.run))
    with pytest.raises(LlamaError, match="run with cross_document True, not False"):
        train(replace(one, settings=kept), Ear().listener())
    assert packed.exists()


class Resting(Sequences):
    """Sequences of which some have not come yet, and may not."""

    def __init__(self, directory: Path, *, come: int, comes: bool) -> None:
        super().__init__(directory)
        self.come, self.comes = come, comes

    def batch(self, step: int, size: int, rows: range | None = None) -> Batch:
        while step > self.come:
            if not self.comes:
                raise Starved(LlamaError("the stream has stopped", hint="the same command again"))
            time.sleep(0.01)
        return super().batch(step, size, rows)


def test_a_stream_that_stops_costs_no_step(tmp_path: Path) -> None:
    whole, cut = job(tmp_path, "whole"), job(tmp_path, "cut")
    train(whole, Ear().listener())
    with pytest.raises(Starved, match="the stream has stopped"):
        train(replace(cut, data=Resting(tmp_path / "data", come=3, comes=False)), Ear().listener())
    assert names(cut.run) == ["checkpoint-0000002", "checkpoint-0000003"]
    assert train(cut, Ear().listener())
    assert same(final(whole.run), final(cut.run))


def test_a_signal_is_heard_while_a_stream_rests(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    data = Resting(tmp_path / "data", come=3, comes=True)
    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(replace(wanted, data=data), stop_after(3))
    data.comes = False  # lets the thread that reads end
    assert names(wanted.run)[-1] == "checkpoint-0000003"


def test_a_run_without_validation_has_none_in_its_log(tmp_path: Path) -> None:
    wanted = job(tmp_path, validation=None)
    train(wanted, Ear().listener())
    assert curves(wanted.run)[1] == []


def saved(run: Path, step: int, keep: int = 9) -> Path:
    run.mkdir(exist_ok=True)
    found = trainer()
    found.step(1, Sequences(write_sequences(run / "d")).batch(1, 4))
    return save(run, step, found, keep=keep)


def test_a_checkpoint_puts_weights_and_moments_back(tmp_path: Path) -> None:
    other = trainer(replace(SETTINGS, seed=5))
    assert restore(saved(tmp_path / "r", 1), other) == 1
    fresh = trainer()
    fresh.step(1, Sequences(tmp_path / "r" / "d").batch(1, 4))
    assert same(weights(fresh), weights(other))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path / "r", step, keep=2)
    assert names(tmp_path / "r") == ["checkpoint-0000002", "checkpoint-0000003"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path, file: str) -> None:
    saved(tmp_path / "r", 1)
    path = saved(tmp_path / "r", 2) / file
    path.write_bytes(path.read_bytes()[:-1])
    assert glance(tmp_path / "r") == tmp_path / "r" / "checkpoint-0000001"


def test_a_checkpoint_without_optimizer_cannot_be_continued(tmp_path: Path) -> None:
    (saved(tmp_path / "r", 1) / "optimizer.safetensors").unlink()
    assert glance(tmp_path / "r") is None


def test_a_checkpoint_replaces_a_broken_one_of_its_step(tmp_path: Path) -> None:
    (saved(tmp_path / "r", 1) / "params.json").unlink()
    assert glance(tmp_path / "r") is None
    saved(tmp_path / "r", 1)
    assert glance(tmp_path / "r") == tmp_path / "r" / "checkpoint-0000001"
    assert names(tmp_path / "r") == ["checkpoint-0000001"]


def test_what_a_killed_run_left_half_written_is_removed(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    (wanted.run / ".checkpoint-0000003.part").mkdir(parents=True)
    (wanted.run / ".log.jsonl.part").touch()
    train(wanted, Ear().listener())
    assert not list(wanted.run.glob(".*part"))


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    lines = [{"run": {"a": 1}}, {"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo'
    (tmp_path / "log.jsonl").write_text(text)
    log = RunLog(tmp_path, about={"b": 2}, step=1)
    log.write({"step": 2, "loss": 3.0})
    log.close()
    assert list(read_log(tmp_path / "log.jsonl")) == [*lines[:2], {"step": 2, "loss": 3.0}]


def test_a_run_has_one_process_at_a_time(tmp_path: Path) -> None:
    again = locked(tmp_path / "r")
    with locked(tmp_path / "r"), pytest.raises(LlamaError, match="in use by another process"):
        again.__enter__()
    with locked(tmp_path / "r"):
        pass


@pytest.mark.parametrize("damaged", ["", "{", "[]"])
def test_a_run_whose_settings_are_damaged_is_refused(tmp_path: Path, damaged: str) -> None:
    wanted = job(tmp_path)
    (wanted.run / "settings.json").write_text(damaged)
    with pytest.raises(LlamaError, match=r"settings\.json: damaged"):
        train(wanted, Ear().listener())


def test_a_line_that_is_no_object_ends_the_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    assert list(read_log(tmp_path / "log.jsonl")) == [{"step": 1}]


def test_the_second_ctrl_c_has_its_usual_effect() -> None:
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_there_is_anything_to_save_says_so(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    wanted = "stopped before there was a checkpoint"
    with pytest.raises(Interrupted, match=wanted) as caught, unsaved():
        signal.raise_signal(number)
    assert caught.value.exit_code == 75
    assert signal.getsignal(number) == before


def test_the_second_signal_has_its_usual_effect_whatever_it_had_before_the_first_step() -> None:
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with unsaved(), stoppable() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.signal is signal.SIGUSR1
            stop._since -= TWICE
            os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_ignored_signal_stays_ignored_before_the_first_step() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with unsaved():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable() as stop:
        assert not stop
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_drawing_has_the_highest_loss_above_and_the_lowest_below() -> None:
    rows = draw([(1, 10.4), (50, 6.0), (100, 5.0)], [(0, 10.4), (100, 5.2)]).splitlines()
    assert rows[0].startswith("  10.40 |o")
    assert rows[15].startswith("   5.00 |")
    assert rows[15].endswith(".")
    assert max(map(len, rows)) <= 80


def test_a_level_curve_can_be_drawn() -> None:
    assert draw([(1, 2.0)], []).splitlines()[0] == "   2.00 |."
