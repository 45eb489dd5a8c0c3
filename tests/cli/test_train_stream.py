"""`llama mix | llama train` as a user runs it: while it runs, killed, and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llama_cli.training.log import read_log
from tests.cli.test_train import (
    same_weights,
    steps_logged,
    wait_for_checkpoint,
    wait_for_step,
)
from tests.shell import LLAMA, ROOT, sh
from tests.tiny import tiny_tokenizer

# 400 pieces instead of 32,000: a step of the 3m takes a tenth of the time
TRAIN = "train --data - --size 3m --tokenizer t.model --device cpu --dtype fp32 --batch 2"
TOKENS = "tokens.jsonl"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write a tokenizer and the tokens of some documents."""
    tokenizer = tiny_tokenizer()
    (tmp_path / "t.model").write_bytes(tokenizer.model)
    nouns = ["cat", "table", "garden", "river"]
    with (tmp_path / TOKENS).open("w") as out:
        for number in range(200):
            text = f"The {nouns[number % 4]} {number} holds the {nouns[number // 4 % 4]}. " * 3
            row = {"id": str(number), "source": "books", "tokens": tokenizer.encode(text, eos=True)}
            print(json.dumps(row), file=out)
    return tmp_path


MIX = f"llama mix {TOKENS} --tokenizer t.model --length 32 --seed 7 -q"


def test_a_mixture_is_trained_on_from_a_pipe_as_from_shards(corpus: Path) -> None:
    piped = sh(f"{MIX} | llama {TRAIN} --steps 6 --run piped", corpus)
    assert piped.returncode == 0, piped.stderr
    shards = f"{MIX} -o mixed && llama {TRAIN} --data mixed --steps 6 --run shards"
    done = sh(shards, corpus)
    assert done.returncode == 0, done.stderr
    assert same_weights(corpus / "piped", corpus / "shards")


def producer(rows: Path, *, hold_at: int, until: Path) -> str:
    """Write a program that pipes rows, and rests before row `hold_at` until a file is there."""
    script = rows.with_suffix(".py")
    script.write_text(
        "import sys, time, pathlib\n"
        f"for number, line in enumerate(open({str(rows)!r})):\n"
        f"    while number == {hold_at} and not pathlib.Path({str(until)!r}).exists():\n"
        f"        time.sleep(0.01); assert time.time() < {time.time() + 300}\n"
        "    sys.stdout.write(line); sys.stdout.flush()\n"
    )
    return f"{sys.executable} {script}"


@contextmanager
def pipeline(script: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a pipeline in a process group of its own, as a terminal does; leave nothing of it."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("COVERAGE", "COV_"))}
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", script.replace("llama ", f"{LLAMA} ")],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **kept},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def reference(corpus: Path, steps: int) -> Path:
    """Train without a stop, from a file."""
    done = sh(
        f"{MIX} > rows.jsonl && llama {TRAIN} --data rows.jsonl --steps {steps} --run whole -q",
        corpus,
    )
    assert done.returncode == 0, done.stderr
    return corpus / "rows.jsonl"


@pytest.mark.timeout(300)
def test_training_goes_on_while_the_stream_does_and_a_kill_9_costs_nothing(corpus: Path) -> None:
    rows, go = reference(corpus, 20), corpus / "go"
    train = f"llama {TRAIN} --steps 20 --checkpoint-every 3 --run r"
    feed = producer(rows, hold_at=16, until=go)
    with pipeline(f"{feed} | {train}", corpus) as first:
        assert wait_for_step(first, corpus / "r", 8)  # of 20: no more rows have come
        assert wait_for_checkpoint(first, corpus / "r", 6)
    with pipeline(f"{feed} | {train}", corpus) as second:
        time.sleep(0.5)
        go.touch()
        _, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert "continuing after step 6 of 20" in said
    assert same_weights(corpus / "r", corpus / "whole")
    assert losses(corpus / "r") == losses(corpus / "whole")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_read_one_pipe_and_one_process_goes_on(corpus: Path) -> None:
    """Slow: seven starts of torch."""
    rows, go = reference(corpus, 12), corpus / "go"
    train = f"llama {TRAIN} --steps 12 --checkpoint-every 2 --run r"
    feed = producer(rows, hold_at=13, until=go)
    with pipeline(f"{feed} | {train} --processes 2", corpus) as first:
        assert wait_for_step(first, corpus / "r", 5)
        assert wait_for_checkpoint(first, corpus / "r", 4)
    go.touch()
    again = sh(f"{feed} | {train}", corpus)
    assert again.returncode == 0, again.stderr
    assert "continuing after step 4 of 12" in again.stderr
    assert losses(corpus / "r") == pytest.approx(losses(corpus / "whole"), rel=1e-5)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.timeout(300)
def test_ctrl_c_ends_the_whole_pipe_and_the_next_one_goes_on(corpus: Path) -> None:
    rows, go = reference(corpus, 12), corpus / "go"
    train = f"llama {TRAIN} --steps 12 --checkpoint-every 100 --run r"
    feed = producer(rows, hold_at=11, until=go)
    with pipeline(f"{feed} | {train}", corpus) as first:
        assert wait_for_step(first, corpus / "r", 5)  # the sixth waits for the twelfth row
        os.killpg(first.pid, signal.SIGINT)
        first.communicate(timeout=60)
    assert not json.loads((corpus / "r/data/growing.json").read_text())["ended"]
    assert (corpus / "r/checkpoint-0000005").is_dir()
    go.touch()
    again = sh(f"{feed} | {train}", corpus)
    assert again.returncode == 0, again.stderr
    assert same_weights(corpus / "r", corpus / "whole")


def test_a_line_cut_off_is_named_before_training(corpus: Path) -> None:
    rows = f"{MIX} | head -9; printf '{{\"tok'"
    done = sh(f"({rows}) | llama {TRAIN} --steps 9 --run r", corpus)
    assert done.returncode == 3
    assert done.stderr.startswith("llama train: <stdin>:10: not JSON")
    assert not list((corpus / "r").glob("checkpoint-*"))


def test_a_stream_shorter_than_the_run_begins_again_with_a_word(corpus: Path) -> None:
    train = f"llama {TRAIN} --steps 4 --run r"
    done = sh(f"{MIX} > rows.jsonl; head -5 rows.jsonl | {train}", corpus)
    assert done.returncode == 0, done.stderr
    words = ("5 sequences are read 1.6 times", "5 sequences: they are read again from the first")
    assert any(each in done.stderr for each in words)  # as it ended before or after the start
    longer = sh(f"{train} < rows.jsonl", corpus)
    assert longer.returncode == 1
    assert "r holds a run with other data: it goes on after 5 sequences" in longer.stderr


def test_one_pass_over_a_stream_waits_for_its_end(corpus: Path) -> None:
    done = sh(f"{MIX} > rows; head -9 rows | llama {TRAIN} --run r -q", corpus)
    assert (done.returncode, done.stderr) == (0, "")
    assert steps_logged(corpus / "r") == 4
