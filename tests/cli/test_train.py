"""`llama train` as a user runs it: real processes, killed and continued."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import equal

from llama_cli.cli import main
from llama_cli.model.stored import load_whole
from llama_cli.model.weights import find_checkpoint, weight_files
from llama_cli.training.log import read_log
from tests.shell import ROOT, sh
from tests.unit.training import write_sequences

# 3.4 million weights and 50 pieces: a step takes milliseconds, torch's start the rest
TRAIN = "train --data data --device cpu --batch 2 --steps 8 --checkpoint-every 3"


def start(arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `llama ARGUMENTS` beside this process."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "COV_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "llama_cli", *arguments.split()],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **kept},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal can go to it with all that it starts
    )


def steps_logged(run: Path) -> int:
    return max((line.get("step", 0) for line in read_log(run / "log.jsonl")), default=0)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> bool:
    """Wait until `step` is logged; False if the process ended before."""
    while steps_logged(run) < step:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, step: int) -> bool:
    """Wait until the checkpoint of `step` is there; False if the process ended before."""
    while not (run / f"checkpoint-{step:07d}").exists():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def same_weights(one: Path, other: Path) -> bool:
    left, right = (load_whole(weight_files(find_checkpoint(run))) for run in (one, other))
    return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)


def kill_and_continue(tmp_path: Path, *, steps: int, kills: int) -> None:
    """Kill at random steps, run the same command to its end, compare with a run left alone."""
    write_sequences(tmp_path / "data")
    command = f"{TRAIN} --steps {steps}"
    draw = random.Random(steps)
    for _ in range(kills):
        at = draw.randint(1, steps - 1)
        process = start(f"{command} --run killed", tmp_path)
        if wait_for_step(process, tmp_path / "killed", at):
            time.sleep(draw.random() * 0.05)  # anywhere in the step, or in a checkpoint
        process.kill()
        process.communicate()
    for run in ("killed", "whole"):
        done = sh(f"llama {command} --run {run}", tmp_path)
        assert done.returncode == 0, done.stderr
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    logged = [
        line["step"] for line in read_log(tmp_path / "killed" / "log.jsonl") if "loss" in line
    ]
    assert logged == list(range(1, steps + 1))


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    kill_and_continue(tmp_path, steps=8, kills=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_kills_end_with_the_same_bits(tmp_path: Path) -> None:
    """Slow: twelve starts of torch."""
    kill_and_continue(tmp_path, steps=60, kills=10)


def test_without_data_the_command_that_makes_some_is_said(tmp_path: Path) -> None:
    done = sh("llama train < /dev/null", tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "  try: llama fetch github . | llama filter | llama tokenize | llama mix -o mixed\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_directory_named_mixed_is_taken_without_being_named(tmp_path: Path) -> None:
    write_sequences(tmp_path / "mixed")
    done = sh("llama train --device cpu --batch 10", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/3m/checkpoint-0000002/params.json").exists()  # 20 sequences, once
    assert done.stdout == ""
    assert "loss by step, 1 to 2" in done.stderr


def test_sequences_piped_in_are_kept_and_trained_on(tmp_path: Path) -> None:
    row = json.dumps({"tokens": list(range(9)), "sources": ["files"]})
    (tmp_path / "s.jsonl").write_text(f"{row}\n{row}\n")
    done = sh("cat s.jsonl | llama train --run r --batch 1 --device cpu -q", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "r/data/manifest.jsonl").exists()
    assert (tmp_path / "r/checkpoint-0000002/tokenizer.model").exists()
    again = sh("head -1 s.jsonl | llama train --run r --batch 1 --device cpu", tmp_path)
    assert again.stderr.startswith(
        "llama train: r holds a run with other data: it ends after 1 of 2 sequences\n"
    )
    assert again.returncode == 1
    assert not (tmp_path / "r/data.new").exists()


def test_sigterm_saves_and_ends_with_75_and_a_run_in_use_is_refused(tmp_path: Path) -> None:
    write_sequences(tmp_path / "data")
    command = f"{TRAIN} --run r --steps 2000 --checkpoint-every 2000"
    process = start(command, tmp_path)
    assert wait_for_step(process, tmp_path / "r", 2)
    busy = sh(f"llama {command}", tmp_path)
    assert busy.stderr == (
        "llama train: r is in use by another process\n  try: llama train --run ANOTHER\n"
    )
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75
    assert said.endswith("with a checkpoint\n  try: the same command again\n")
    held = find_checkpoint(tmp_path / "r").name
    assert int(held.removeprefix("checkpoint-")) == steps_logged(tmp_path / "r")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step_ends_with_75_too(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heard(*arguments: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr("llama_cli.commands._train.main", heard)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command sets it
    done = CliRunner().invoke(main, ["train", "--device", "cpu"])
    assert (done.exit_code, done.stderr) == (
        75,
        "llama train: stopped before there was a checkpoint\n  try: the same command again\n",
    )


def test_ctrl_c_saves_and_ends_by_the_signal(tmp_path: Path) -> None:
    write_sequences(tmp_path / "data")
    process = start(f"{TRAIN} --run r --steps 2000 --checkpoint-every 2000", tmp_path)
    assert wait_for_step(process, tmp_path / "r", 1)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert find_checkpoint(tmp_path / "r")


def test_a_finished_run_says_so_and_other_settings_are_refused(tmp_path: Path) -> None:
    write_sequences(tmp_path / "data")
    assert sh(f"llama {TRAIN} --run r -q", tmp_path).returncode == 0
    again = sh(f"llama {TRAIN} --run r", tmp_path)
    assert again.returncode == 0
    assert again.stderr.endswith("llama train: r is finished: r/checkpoint-0000008\n")
    other = sh(f"llama {TRAIN} --run r --seed 1", tmp_path)
    assert other.returncode == 1
    assert "r holds a run with seed 0, not 1" in other.stderr


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("33b", ["32.53B", "530,432", "2.87e+23", "954.4B", "6.83e+10", "233.39 MWh"]),
        ("65b", ["65.29B  the paper prints 65.2", "1,022,362", "449.84 MWh", "173.19 tCO2eq"]),
    ],
)
def test_a_dry_run_prints_the_papers_figures(tmp_path: Path, size: str, words: list[str]) -> None:
    done = sh(f"llama train --size {size} --dry-run", tmp_path)
    assert [word for word in words if word not in done.stdout] == []
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


def test_steps_and_tokens_together_are_refused(tmp_path: Path) -> None:
    done = sh("llama train --steps 1 --tokens 1", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("llama train: --steps and --tokens say the same, give one\n")


def test_help_and_dry_run_load_no_torch(tmp_path: Path) -> None:
    code = "import sys; from llama_cli.cli import main; main(%s, standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    for arguments in (["train", "--help"], ["train", "--dry-run"]):
        (tmp_path / "p.py").write_text(code % arguments)
        assert sh(f"{sys.executable} p.py", tmp_path).returncode == 0


def test_checkpoints_that_cannot_be_written_are_told_and_end_only_the_end_of_a_run(
    tmp_path: Path,
) -> None:
    write_sequences(tmp_path / "data")
    full = sh(f"unset ${{!COV*}}; ulimit -f 2000; llama {TRAIN} --run full", tmp_path)
    assert (full.returncode, full.stdout) == (1, "")
    told = [line for line in full.stderr.splitlines() if "checkpoint of" in line]
    assert told == [
        f"llama train: the checkpoint of step {step} failed: File too large" for step in (3, 6, 8)
    ]
    assert full.stderr.splitlines()[-2:] == [
        "llama train: the last step, 8, is not saved: File too large",
        "  try: the same command again; it goes on from the newest checkpoint, if any",
    ]
    assert not list((tmp_path / "full").glob("*checkpoint*"))
    assert not list((tmp_path / "full").glob(".*.part"))
    assert sh(f"llama {TRAIN} --run full 2>/dev/full", tmp_path).returncode == 0
