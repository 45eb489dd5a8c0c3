"""`llama train` in several processes, as a user starts it: on this machine, or as on two."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.training.log import read_log
from tests.cli.test_train import same_weights, start, wait_for_checkpoint, wait_for_step
from tests.shell import sh
from tests.unit.test_training_launch import free_port
from tests.unit.training import write_sequences

# 3.4 million weights; most of the time is torch's start, in the launcher and in each process.
# 5 sequences a step, so that some processes have one more than others.
TRAIN = "train --data ../data --device cpu --dtype fp32 --batch 5 --steps 40 --checkpoint-every 4"
TWO = f"{TRAIN} --processes 2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in one process and in two, to compare with; the two get some settings by stdin."""
    here = tmp_path_factory.mktemp("launched")
    write_sequences(here / "data")
    (here / "w").mkdir()
    one = f"llama {TRAIN} --run one"
    two = f"llama {TWO} --run two".replace("--steps 40", "--config -")
    for script in (one, f"printf '[train]\\nsteps = 40\\n' | {two}"):
        done = sh(script, here / "w")
        assert done.returncode == 0, done.stderr
    return here / "w"


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def workers(launcher: int) -> dict[int, int]:
    """Give the process of each rank."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=False
    )
    ranks = {}
    for pid in found.stdout.split():
        said = Path("/proc", pid, "environ").read_bytes().split(b"\0")
        ranks.update({int(word[5:]): int(pid) for word in said if word.startswith(b"RANK=")})
    return ranks


def test_two_processes_train_as_one(runs: Path) -> None:
    about = next(read_log(runs / "two" / "log.jsonl"))["run"]
    assert about["processes"] == 2
    assert losses(runs / "two") == pytest.approx(losses(runs / "one"), rel=1e-5, abs=1e-6)


def test_a_killed_process_is_replaced_and_the_run_ends_with_the_same_bits(runs: Path) -> None:
    process = start(f"{TWO} --run killed", runs)
    assert wait_for_checkpoint(process, runs / "killed", 4)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    said = process.communicate(timeout=100)[1].splitlines()
    assert process.returncode == 0
    lost = "llama train: process 1 was ended by SIGKILL; going on from the last checkpoint"
    assert said.count(lost) == 1
    assert [line for line in said if "continuing after step" in line]
    assert not [line for line in said if "Traceback" in line or "rror" in line]
    assert same_weights(runs / "killed", runs / "two")


def test_sigterm_and_ctrl_c_save_and_the_same_command_goes_on(runs: Path) -> None:
    command = f"{TWO} --run stopped"
    process = start(command, runs)
    assert wait_for_step(process, runs / "stopped", 2)
    process.terminate()
    said = process.communicate(timeout=100)[1].splitlines()
    assert process.returncode == 75, said
    assert said[-1] == "  try: the same command again"
    assert len([line for line in said if "with a checkpoint" in line]) == 1
    process = start(command, runs)
    assert wait_for_step(process, runs / "stopped", 6)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    said = process.communicate(timeout=100)[1].splitlines()
    assert process.returncode == -signal.SIGINT, said
    assert "with a checkpoint" in said[-1]
    done = sh(f"llama {command}", runs)
    assert done.returncode == 0, done.stderr
    assert "continuing after step" in done.stderr
    assert same_weights(runs / "stopped", runs / "two")


def test_an_error_of_the_processes_is_one_line_said_once(runs: Path) -> None:
    done = sh(f"llama {TWO} --run two --lr 1", runs)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()
    wrong = "llama train: two holds a run with lr 0.003, not 1.0"
    assert [said[0], *said[-2:]] == [
        "llama train: 2 processes on 1 machine",
        wrong,
        "  try: llama train --run ANOTHER, or the settings it was begun with",
    ]
    assert said.count(wrong) == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--nodes 2", 2, "--nodes needs --rdzv, where the machines meet"),
        ("--tensor 3", 2, "2 processes cannot be shared by tensor groups of 3"),
        ("--replicas 3", 2, "2 data ranks cannot hold 3 replicas of the weights"),
        ("--batch 1", 2, "a batch of 1 sequence leaves nothing to some of 2 data ranks"),
        ("--size 15m --tensor 2", 2, "the 7 heads of the 15m do not divide by 2 tensor ranks"),
        ("--tokenizer none.model", 1, "no tokenizer at none.model"),
        ("--data .", 1, "no token shards at ."),
    ],
)
def test_a_wrong_option_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, code: int, words: str
) -> None:
    write_sequences(tmp_path / "data")
    (tmp_path / "w").mkdir()
    monkeypatch.chdir(tmp_path / "w")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command sets it
    begun = CliRunner().invoke(main, [*TWO.split(), "--run", "odd", *options.split()])
    assert begun.exit_code == code
    assert begun.stderr.startswith(f"llama train: {words}\n")
    assert not (tmp_path / "w" / "odd").exists()


def test_a_run_has_a_name() -> None:
    done = CliRunner().invoke(main, [*TRAIN.split(), "--run", ""])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        2,
        "llama train: invalid value for '--run': a name is wanted",
    )


def test_a_pipe_is_kept_for_all_processes(runs: Path) -> None:
    row = '{"tokens": [%s], "sources": ["files"]}\\n'
    rows = "".join(row % ",".join(str((n * 7 + i) % 50) for i in range(9)) for n in range(12))
    (runs / "rows.jsonl").write_text(rows.replace("\\n", "\n"))
    (runs / "c.toml").write_text('[train]\nrun = "piped"\nsteps = 3\n')
    options = "--size 3m --device cpu --batch 4 --processes 2 --config c.toml"
    done = sh(f"cat rows.jsonl | llama train {options}", runs)
    assert done.returncode == 0, done.stderr
    assert len(losses(runs / "piped")) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_machines_train_as_one(runs: Path) -> None:
    """Slow: six starts of torch, in two launchers with two processes each."""
    command = f"{TWO} --run machines --nodes 2 --rdzv 127.0.0.1:{free_port()}"
    both = [start(command, runs) for _ in range(2)]
    said = [process.communicate(timeout=250)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert losses(runs / "machines") == pytest.approx(losses(runs / "one"), rel=1e-5, abs=1e-6)
    assert sorted(text.count("4 processes on 2 machines") for text in said) == [0, 1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_printed_line_of_torchrun_does_the_same(runs: Path) -> None:
    """Slow: torchrun's own start, and that of two processes."""
    options = f"{TWO} --run printed --print-launch torchrun"
    line = sh(f"LLAMA_TRAIN_SEED=0 llama {options}", runs)
    assert (line.returncode, line.stderr, line.stdout.count("\n")) == (0, "", 1)
    assert "--seed 0" in line.stdout  # what only the environment said is in it
    done = sh(line.stdout, runs, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert same_weights(runs / "printed", runs / "two")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_a_slurm_allocation_nothing_more_is_needed(runs: Path, tmp_path: Path) -> None:
    """Slow: as two machines; the `srun` here starts both tasks on this one."""
    srun = """#!/bin/bash
echo "$@" > srun.said
while [[ $1 = --* ]]; do shift; done
for node in 0 1; do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NUM_TASKS=2 SLURM_NODEID=$node \\
        SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_STEP_NODELIST=localhost,other "$@" &
done
wait -n && wait -n
"""
    (tmp_path / "srun").write_text(srun)
    (tmp_path / "srun").chmod(0o755)
    job = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NUM_NODES": "2"}
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = sh(f"llama {TRAIN} --processes 1 --run slurm", runs, env={**job, **path})
    assert done.returncode == 0, done.stderr
    assert "2 processes on 2 machines" in done.stderr
    assert losses(runs / "slurm") == pytest.approx(losses(runs / "one"), rel=1e-5, abs=1e-6)
    assert (runs / "srun.said").read_text().startswith("--nodes=2 --ntasks=2 ")


def test_print_launch_starts_nothing(tmp_path: Path) -> None:
    done = sh("llama train --size 33b --data 'my shards' --print-launch", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    assert done.stdout.count(" train --size 33b --data 'my shards'") == 3
    assert [line for line in done.stdout.splitlines() if line.startswith("# ")] == [
        "# one machine",
        "# several machines: this on each",
        "# Slurm: llama train … --print-launch sbatch | sbatch",
    ]
    script = sh("llama train --size 33b --nodes 16 --print-launch sbatch | bash -n", tmp_path)
    assert (script.returncode, script.stderr) == (0, "")
