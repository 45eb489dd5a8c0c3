"""`llama train --from … --instructions …` as a user runs it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_cli.training.log import read_log
from tests.cli.test_train import same_weights, start, wait_for_step
from tests.shell import sh
from tests.tiny import tiny_checkpoint
from tests.unit.test_training_instructions import ALL, PAIR, lines

TUNE = "train --from ck --instructions i.jsonl --device cpu --dtype fp32"


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """Write a checkpoint and conversations to learn and to hold out."""
    tiny_checkpoint(tmp_path / "ck")
    lines(tmp_path / "i.jsonl", *ALL[:-20])
    lines(tmp_path / "v.jsonl", *ALL[-20:])
    return tmp_path


def test_fine_tuning_lowers_the_loss_of_held_out_responses(ready: Path) -> None:
    """And a run killed on the way ends with the bits of one that was not."""
    tune = f"{TUNE} --validation v.jsonl --batch 4 --lr 3e-3 --checkpoint-every 5 --epochs 4"
    killed = start(f"{tune} --run killed", ready)
    assert wait_for_step(killed, ready / "killed", 7)
    time.sleep(0.02)
    killed.kill()
    killed.communicate()
    for run in ("killed", "whole"):
        done = sh(f"llama {tune} --run {run}", ready)
        assert done.returncode == 0, done.stderr
    assert same_weights(ready / "killed", ready / "whole")
    log = list(read_log(ready / "whole" / "log.jsonl"))
    before, *_, after = [line["validation_loss"] for line in log if "validation_loss" in line]
    assert after < 0.8 * before
    assert json.loads((ready / "whole/template.json").read_text())["user"] == "User: {}\n\n"


def test_two_processes_learn_what_one_does(ready: Path) -> None:
    """The responses of a batch weigh the same, on whatever rank their number is larger."""
    tune = f"llama {TUNE} --batch 4 --lr 3e-3 --steps 6 -q"
    done = sh(f"{tune} --run one && {tune} --processes 2 --run two", ready)
    assert done.returncode == 0, done.stderr
    found = [
        [line["loss"] for line in read_log(ready / run / "log.jsonl") if "loss" in line]
        for run in ("one", "two")
    ]
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_what_is_not_said_follows_from_the_checkpoint(ready: Path) -> None:
    done = sh(f"cat i.jsonl | llama {TUNE.replace('i.jsonl', '-')} -q", ready)
    assert (done.returncode, done.stderr) == (0, "")
    run = ready / "runs/custom-instructions"
    settings = json.loads((run / "settings.json").read_text())
    assert settings["lr"] == pytest.approx(3e-3 / 15)  # of the 3m, the nearest size
    assert (settings["warmup"], settings["cross_document"]) == (1, False)
    about = json.loads((run / "data/about.json").read_text())
    assert about["conversations"] == len(ALL) - 20
    assert (run / "checkpoint-0000002/tokenizer.model").exists()
    asked = "llama generate --model runs/custom-instructions --max-tokens 3 -q --prompt 'User: cat'"
    assert sh(asked, ready).returncode == 0


def test_what_cannot_be_learnt_from_is_one_line_before_any_step(ready: Path) -> None:
    chat = {"messages": [{"role": "tool", "content": "x"}]}
    lines(ready / "bad.jsonl", PAIR, chat)
    done = sh("llama train --from ck --instructions bad.jsonl --device cpu --run r", ready)
    assert done.returncode == 3
    assert done.stderr == (
        "llama train: bad.jsonl:2: message 1: role 'tool' is none of system, user, assistant\n"
    )
    assert not list((ready / "r").glob("checkpoint-*"))
    alone = sh("llama train --instructions bad.jsonl", ready)
    assert alone.returncode == 2
    assert alone.stderr == (
        "llama train: --instructions goes on from a model\n"
        "  try: llama train --from runs/3m --instructions bad.jsonl\n"
    )


def test_more_pretraining_begins_with_the_weights_and_a_schedule_anew(ready: Path) -> None:
    rows = [{"tokens": [1, *range(30, 30 + 31), 2], "sources": ["files"]}] * 8
    lines(ready / "rows.jsonl", *rows)
    more = "llama train --from ck --data rows.jsonl --device cpu --dtype fp32 --batch 2"
    done = sh(f"{more} --lr 1e-9 --run r -q", ready)
    assert (done.returncode, done.stderr) == (0, "")
    before = load_file(ready / "ck/model.safetensors")
    after = load_file(ready / "r/checkpoint-0000004/model.safetensors")
    # the rate is too small to move a weight by what can be seen
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    other = sh(f"{more.replace('--from ck ', '')} --tokenizer ck/tokenizer.model --run r", ready)
    assert other.returncode == 1
    assert "llama train: r holds a run with " in other.stderr
