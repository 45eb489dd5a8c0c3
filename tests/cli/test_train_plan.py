"""`llama train --dry-run --gpus N` as a process."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from llama_cli.commands import _train_plan
from llama_cli.errors import LlamaError
from llama_cli.parallel.gpus import machines
from llama_cli.parallel.layout import Layout
from tests.shell import sh
from tests.tiny import CONFIG

PLAN = "llama train --dry-run"


def cells(text: str, name: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
    return line.strip().removeprefix(name).split()


def test_the_65b_on_2048_gpus_takes_the_papers_time_and_energy(tmp_path: Path) -> None:
    done = sh(f"{PLAN} --size 65b --gpus 2048 --gpu a100-80gb --no-check", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(cells(done.stdout, "days")[0]) == pytest.approx(21, abs=0.5)  # section 2.4
    assert float(cells(done.stdout, "tokens/s a GPU")[0]) == pytest.approx(380, rel=0.02)
    assert float(cells(done.stdout, "MWh")[0]) == pytest.approx(449, rel=0.02)  # Table 15
    assert float(cells(done.stdout, "tCO2eq")[0]) == pytest.approx(173, rel=0.02)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gpus", [16, 64, 256, 1024, 2048])
def test_the_33b_is_never_laid_out_by_8(tmp_path: Path, gpus: int) -> None:
    done = sh(f"{PLAN} --size 33b --gpus {gpus} --no-check", tmp_path)
    meshes = re.findall(r"(\d+) x (\d+)", done.stdout.partition("micro-batch")[0])
    assert meshes
    assert {int(tensor) for _, tensor in meshes} <= {1, 2, 4}


def test_the_parts_of_a_step_are_its_whole(tmp_path: Path) -> None:
    out = sh(f"{PLAN} --size 13b --gpus 64 --gpu h100 --no-check", tmp_path).stdout
    names = ("matrix products", "attention", "memory-bound work", "communication not hidden")
    parts = [[float(cell) for cell in cells(out, name)] for name in names]
    whole = [float(cell) for cell in cells(out, "seconds a step")]
    assert [sum(each) for each in zip(*parts, strict=True)] == pytest.approx(whole, rel=0.01)


@pytest.mark.slow  # it runs one rank of the real model, which takes 13 s on an idle machine
def test_a_rank_of_2048_is_run_within_a_minute_and_counts_what_was_planned(
    tmp_path: Path,
) -> None:
    start = time.monotonic()
    done = sh(f"{PLAN} --size 33b --gpus 2048", tmp_path)
    assert time.monotonic() - start < 180  # of a machine that does other things too
    assert (done.returncode, done.stderr) == (0, "")
    _, _, counted = done.stdout.partition("\nchecked: rank 0 of 2,048 ran one pass")
    assert "planned     counted" in counted
    assert counted.count("\n") >= 7
    assert "differs" not in counted


def test_a_check_of_a_small_model_is_quick(tmp_path: Path) -> None:
    done = sh(f"{PLAN} --size 3m --gpus 8 --batch 8 --tensor 2", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checked: rank 0 of 8 ran" in done.stdout
    assert "differs" not in done.stdout


def test_what_is_settled_by_options_is_kept(tmp_path: Path) -> None:
    settled = "--tensor 2 --micro-batch 4 --activations full --replicas 1"
    out = sh(f"{PLAN} --size 7b --gpus 64 {settled} --no-check", tmp_path).stdout
    assert cells(out, "data x tensor") == ["32", "x", "2"]
    assert cells(out, "micro-batch x passes") == ["4", "x", "16"]
    assert cells(out, "activations policy")[0] == "full"


def test_a_default_settles_nothing(tmp_path: Path) -> None:
    out = sh(f"{PLAN} --size 65b --gpus 2048 --no-check", tmp_path).stdout
    assert cells(out, "data x tensor")[:3] == ["256", "x", "8"]  # --tensor is 1 by default


def test_a_slower_network_is_seen(tmp_path: Path) -> None:
    plan = f"{PLAN} --size 65b --gpus 2048 --no-check"
    usual = sh(plan, tmp_path).stdout
    slow = sh(f"{plan} --network 400", tmp_path).stdout
    assert "256 nodes of 8, 400 Gb/s each" in slow
    assert float(cells(slow, "days")[0]) > 2 * float(cells(usual, "days")[0])


def test_the_network_of_one_node_does_not_matter(tmp_path: Path) -> None:
    plan = f"{PLAN} --size 7b --gpus 8 --no-check"
    usual, slow = sh(plan, tmp_path).stdout, sh(f"{plan} --network 1", tmp_path).stdout
    assert usual.partition("assumed")[0] == slow.partition("assumed")[0]


def test_nodes_of_four_hold_tensor_groups_of_four(tmp_path: Path) -> None:
    out = sh(f"{PLAN} --size 65b --gpus 2048 --gpus-per-node 4 --no-check", tmp_path).stdout
    assert "512 nodes of 4" in out
    meshes = re.findall(r"(\d+) x (\d+)", out.partition("micro-batch")[0])
    assert {int(tensor) for _, tensor in meshes} <= {1, 2, 4}


@pytest.mark.parametrize(
    ("arguments", "code", "message", "cure"),
    [
        ("--size 65b --gpus 8 --dry-run", 1, "the 65b does not fit on 8", "--gpus 16"),
        ("--size 65b --gpus 100 --dry-run", 2, "100 GPUs are not whole nodes of 8", "--gpus 96"),
        ("--size 65b --gpus 64 --batch 4 --dry-run", 2, "to some of 8 data ranks", "--batch 8"),
        ("--size 33b --gpus 64 --tensor 8 --dry-run", 2, "do not divide 52 heads", "--tensor 4"),
        ("--size 7b --gpus 8 --dtype fp32 --dry-run", 2, "planned in bf16", "--dtype bf16"),
        ("--dry-run --network 400", 2, "--network needs --gpus", "--gpus 8"),
        ("--dry-run --no-check", 2, "--check needs --gpus", "--gpus 8"),
        ("--gpus 8", 2, "--gpus is for --dry-run", "--dry-run --gpus 8"),
    ],
)
def test_what_cannot_be_planned_is_one_line_with_a_cure(
    tmp_path: Path, arguments: str, code: int, message: str, cure: str
) -> None:
    done = sh(f"llama train {arguments}", tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("llama train: ")
    assert message in first
    assert second.startswith("  try: llama train ")
    assert cure in second


def test_a_layout_is_planned_without_torch(tmp_path: Path) -> None:
    code = "import sys; from llama_cli.cli import main; "
    code += "main(['train', '--dry-run', '--gpus', '8', '--no-check'], standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    (tmp_path / "p.py").write_text(code)
    assert sh(f"{sys.executable} p.py", tmp_path).returncode == 0


def test_a_layout_that_does_not_run_is_one_line() -> None:
    layout = Layout(2, 3, 1, 1, "full", False)  # heads that three do not divide
    with pytest.raises(LlamaError, match=r"one rank of 2 x 3, 1 x 1, full, keep weights does not"):
        _train_plan._checked(CONFIG, machines("h100", 6, node=6), layout)


def test_the_options_of_the_first_layout_are_its_own(tmp_path: Path) -> None:
    plan = f"{PLAN} --size 65b --gpus 2048 --no-check"
    done = sh(plan, tmp_path).stdout
    (line,) = (line for line in done.splitlines() if line.startswith("the first: llama train "))
    options = line.removeprefix("the first: llama train --size 65b ")
    again = sh(f"{plan} {options}", tmp_path).stdout
    for name, first in (("data x tensor", 3), ("micro-batch x passes", 3), ("days", 1)):
        assert cells(again, name) == cells(done, name)[:first]
    assert "--no-reshard" in options
    assert "given back" not in again
