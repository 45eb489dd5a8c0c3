"""What is seen of a run: on the terminal that trains, on another, in a pipe, by trackers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.training.log import RunLog, read_log
from tests.cli.terminal import Terminal
from tests.cli.test_train import start, wait_for_step
from tests.shell import ROOT, sh
from tests.unit.planted import write_batches
from tests.unit.training import write_sequences

TRAIN = "train --data data --device cpu --batch 2 --checkpoint-every 3"
LONG = f"{TRAIN} --steps 5000 --checkpoint-every 5000 --run r"
MODES = re.compile(r"\x1b\[\?|\x1b[78]|\x1b\]")  # of the terminal: none may be changed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_sequences(tmp_path / "data")
    return tmp_path


def shows(*words: str) -> Any:
    def condition(lines: list[str]) -> bool:
        return all(any(word in line for line in lines) for word in words)

    return condition


# the panel


def test_a_run_on_a_terminal_is_a_panel_and_leaves_only_its_results(data: Path) -> None:
    with Terminal(f"llama {TRAIN} --steps 60 --run r", data) as terminal:
        terminal.see(shows("grad norm", "tokens/s", "MFU", "memory", "left", "checkpoint", "█"))
        assert terminal.end() == 0
        lines = [line for line in terminal.screen.lines if line]
    assert lines[0] == "llama train: 20 sequences are read 6.0 times, in the same order"
    assert lines[1].startswith("llama train: checkpoints get no tokenizer")
    assert lines[3] == "llama train: wrote r/checkpoint-0000060 and r/loss.png"
    assert lines[-1].strip() == "loss by step, 1 to 60: . training  o validation"
    assert not shows("grad norm")(lines)
    assert not MODES.search(terminal.text)


def test_ctrl_c_wipes_the_panel_and_ends_by_the_signal(data: Path) -> None:
    with Terminal(f"llama {LONG}", data) as terminal:
        terminal.see(shows("grad norm"))
        terminal.press(b"\x03")
        assert terminal.end() == -signal.SIGINT
        lines = [line for line in terminal.screen.lines if line]
    assert re.fullmatch(r"llama train: stopped after step \d+, with a checkpoint", lines[-1])
    assert len(lines) == 4  # one on how often sequences are read, two on the tokenizer, and that
    assert terminal.screen.column == 0


def test_a_panel_survives_any_size_of_its_terminal(data: Path) -> None:
    with Terminal(f"llama {LONG}", data, size=(60, 20)) as terminal:
        terminal.see(shows("grad norm"))
        for size in ((30, 20), (10, 5), (2, 1), (200, 60), (79, 24)):
            terminal.resize(*size)
            before = len(terminal.text)
            terminal.see(lambda lines, before=before: len(terminal.text) > before + 50)
        terminal.press(b"\x03")
        assert terminal.end() == -signal.SIGINT


@pytest.mark.parametrize("width", [12, 30])
def test_no_line_is_wider_than_a_narrow_terminal(data: Path, width: int) -> None:
    """A line that wraps could not be wiped, and would be seen many times."""
    with Terminal(f"llama {TRAIN} --steps 40 --run r", data, size=(width, 24)) as terminal:
        assert terminal.end() == 0
    lines = [line for line in terminal.screen.lines if line]
    assert not shows("grad norm")(lines)
    assert sum("step" in line for line in lines) <= 2  # of the drawing at the end


def test_quiet_shows_nothing_on_a_terminal(data: Path) -> None:
    with Terminal(f"llama {TRAIN} --steps 9 --run r -q", data) as terminal:
        assert terminal.end() == 0
        assert terminal.text == ""


def test_a_dumb_terminal_has_no_panel(data: Path) -> None:
    with Terminal(f"llama {TRAIN} --steps 9 --run r", data, TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.text
        assert "\rllama" not in terminal.text


def test_a_stopped_terminal_does_not_stop_the_run(data: Path) -> None:
    with Terminal(f"llama {TRAIN} --steps 400 --run r", data) as terminal:
        terminal.see(shows("grad norm"))
        terminal.press(b"\x13")  # Ctrl-S
        end = time.monotonic() + 60
        while not (data / "r/checkpoint-0000399").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        terminal.press(b"\x11")  # Ctrl-Q
        assert terminal.end() == 0


def test_a_step_is_not_slowed_by_the_panel(tmp_path: Path) -> None:
    """Ours: a frame, drawn four times a second, may hold a step up by a millisecond at most."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from llama_cli.commands._train_seeing import Seen\n"
        "from llama_cli.stream.block import shown\n"
        "from llama_cli.stream.progress import Progress\n"
        "progress = Progress('train')\n"
        "seen = Seen(Path('r'), progress)\n"
        "times = []\n"
        "with shown(progress, seen.draw):\n"
        "    for step in range(1, 1501):\n"
        "        line = dict(step=step, loss=5 / step, lr=1e-3, grad_norm=1.0, tokens=step,\n"
        "            tokens_per_second=1.0, mfu=None, memory=1, watts=None, data_wait=0.0,\n"
        "            seconds=1e-3)\n"
        "        start = time.perf_counter()\n"
        "        seen(line)\n"
        "        times.append(time.perf_counter() - start)\n"
        "        time.sleep(1e-3)\n"
        "times.sort()\n"
        "Path('times').write_text(f'{times[len(times) // 2]} {times[int(len(times) * 0.99)]}')\n"
    )
    (tmp_path / "panel.py").write_text(script)
    with Terminal(f"{sys.executable} panel.py", tmp_path) as terminal:
        assert terminal.end() == 0, terminal.text
    usual, slow = map(float, (tmp_path / "times").read_text().split())
    assert usual < 1e-4
    assert slow < 1e-3


# plain lines


def test_without_a_terminal_there_are_plain_lines_now_and_then(data: Path) -> None:
    script = (
        "import llama_cli.stream.progress as progress\n"
        "progress.LOG_SECONDS = 0.0\n"
        "from llama_cli.cli import main\n"
        f"main({TRAIN.split()!r} + ['--steps', '9', '--validation', 'data', '--run', 'r'])\n"
    )
    (data / "often.py").write_text(script)
    lines = sh(f"{sys.executable} often.py", data).stderr.splitlines()
    step = re.compile(
        r"llama train: step [1-9] of 9, loss \d\.\d{3}, [\d,]+ tokens/s(, [\dminsh ]+ left)?"
    )
    assert sum(bool(step.fullmatch(line)) for line in lines) == 9
    assert "llama train: step 9: validation loss" in "\n".join(lines)
    assert not any("\x1b" in line for line in lines)


# llama train --watch


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RunLog]:
    """Write the log of a run that is nobody's."""
    (tmp_path / "r").mkdir()
    found = RunLog(tmp_path / "r", about={"size": "3m", "device": "cpu", "steps": 9}, step=0)
    yield found
    found.close()


def line(step: int, loss: float = 3.0) -> dict[str, Any]:
    return {
        "step": step,
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens": step * 64,
        "tokens_per_second": 1234.5,
        "tokens_per_second_per_gpu": 1234.5,
        "mfu": 0.4,
        "memory": 2e9,
        "watts": None,
        "data_wait": 0.0,
        "seconds": 0.1,
    }


def watching(cwd: Path, options: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llama_cli", "train", "--watch", "r", *options.split()],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_is_watched_on_another_terminal_until_it_ends(data: Path) -> None:
    trains = start(f"{TRAIN} --steps 400 --run r", data)
    assert wait_for_step(trains, data / "r", 1)
    with Terminal("llama train --watch r", data) as terminal:
        terminal.see(shows("r  3m  cpu", "grad norm", "checkpoint", "█"))
        assert terminal.end() == 0
        lines = [found for found in terminal.screen.lines if found]
    trains.communicate()
    assert len(lines) == 1
    assert re.fullmatch(r"r is finished: step 400, loss \d\.\d{3}", lines[0])
    assert not MODES.search(terminal.text)


def test_a_run_that_stops_ends_the_watching_with_75(tmp_path: Path, log: RunLog) -> None:
    log.write(line(4))
    log.write({"step": 4, "end": "stopped", "why": "stopped after step 4, with a checkpoint"})
    done = sh("llama train --watch r", tmp_path)
    assert done.returncode == 75
    assert done.stdout == "step 4 of 9, loss 3.000, 1,234 tokens/s, 0 s left\n"
    assert done.stderr == (
        "llama train: r has stopped after step 4: stopped after step 4, with a checkpoint\n"
        "  try: the same llama train command continues it\n"
    )


def test_plain_lines_tell_what_is_new_and_of_a_log_that_is_cut_back(
    tmp_path: Path, log: RunLog
) -> None:
    for step in (1, 2, 3, 4):
        log.write(line(step))
    process = watching(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step 4 of 9, loss 3.000")
    log.close()
    again = RunLog(tmp_path / "r", about={}, step=2)
    again.write({"step": 2, "spike": "rewind", "batches": [3, 5], "why": "the loss is odd"})
    again.write(line(3, 2.5))
    again.write({"step": 3, "validation_loss": 2.75})
    said = [process.stdout.readline() for _ in range(3)]
    assert said[0] == "step 2: rewind: the loss is odd; batches 3 to 5 are left out\n"
    assert said[1] == "step 3: validation loss 2.750\n"
    assert said[2].startswith("step 3 of 9, loss 2.500")
    again.write(line(9, 1.0))
    again.write({"step": 9, "end": "finished"})
    again.close()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("r is finished: step 9, loss 1.000\n")


def test_a_run_that_falls_silent_is_called_stalled_once(tmp_path: Path, log: RunLog) -> None:
    log.write(line(3))
    os.utime(tmp_path / "r/log.jsonl", (time.time() - 200,) * 2)
    process = watching(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step 3 of 9")
    assert process.stdout.readline() == "stalled or killed: no line for 3 min 20 s\n"
    time.sleep(1.2)
    log.write(line(4))
    assert process.stdout.readline().startswith("step 4 of 9")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT


def test_a_run_that_was_killed_ends_the_watching(tmp_path: Path, log: RunLog) -> None:
    log.write(line(3))
    os.utime(tmp_path / "r/log.jsonl", (time.time() - 200,) * 2)
    (tmp_path / "r/.lock").touch()
    done = CliRunner().invoke(main, ["train", "--watch", str(tmp_path / "r")])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        75,
        f"llama train: {tmp_path}/r has stopped after step 3: its process has gone without a word",
    )


def test_the_panel_says_that_a_run_has_stalled(tmp_path: Path, log: RunLog) -> None:
    log.write(line(3))
    os.utime(tmp_path / "r/log.jsonl", (time.time() - 200,) * 2)
    with Terminal("llama train --watch r", tmp_path) as terminal:
        terminal.see(shows("stalled or killed: no line for 3 min"))
        terminal.press(b"\x03")
        assert terminal.end() == -signal.SIGINT
    assert not any(found for found in terminal.screen.lines)


def test_a_reader_that_leaves_ends_the_watching_by_its_signal(tmp_path: Path, log: RunLog) -> None:
    log.write(line(1))
    process = watching(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    for step in range(2, 9):
        log.write(line(step))
        time.sleep(0.6)
        if process.poll() is not None:
            break
    assert process.wait(30) == -signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_finished_run_whose_log_does_not_say_so_is_finished(tmp_path: Path, log: RunLog) -> None:
    log.write(line(9))
    (tmp_path / "r/checkpoint-0000009").mkdir()
    done = sh("llama train --watch r -q", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_directory_without_a_run_cannot_be_watched(tmp_path: Path) -> None:
    done = sh("llama train --watch nothing", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "llama train: no run in nothing\n  try: llama train --run nothing\n"


def test_watching_takes_no_lock_and_no_torch_and_starts_at_once(
    tmp_path: Path, log: RunLog
) -> None:
    log.write(line(9))
    log.write({"step": 9, "end": "finished"})
    code = (
        "import sys; from llama_cli.cli import main\n"
        "try: main(['train', '--watch', 'r'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    (tmp_path / "w.py").write_text(code)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        done = sh(f"{sys.executable} w.py", tmp_path)
        seconds.append(time.perf_counter() - begin)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert min(seconds) < 0.5
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["log.jsonl"]


# trackers

WANDB = '''
"""A stand-in: what it is told lies in wandb.jsonl."""
import json, os
class Settings:
    def __init__(self, **options): pass
class Run:
    def __init__(self, options):
        self.id, self.config = options["id"], self
        self.tell("init", options["project"])
    def tell(self, what, found):
        with open(os.environ["TOLD"], "a") as file:
            file.write(json.dumps([self.id, what, found]) + "\\n")
    def define_metric(self, *names, **options): pass
    def update(self, about, **options): self.tell("config", about["size"])
    def log(self, line): self.tell("log", line)
    def finish(self, exit_code): self.tell("finish", exit_code)
def init(**options): return Run(options)
'''


def test_weights_and_biases_hears_of_one_run_though_it_was_stopped(data: Path) -> None:
    (data / "fake").mkdir()
    (data / "fake/wandb.py").write_text(WANDB)
    env = {"PYTHONPATH": f"{ROOT}:{data / 'fake'}", "TOLD": str(data / "told")}
    command = f"{TRAIN} --steps 6 --run r --wandb llamas"
    stop = (
        "import os, signal\n"
        "from llama_cli.training.log import RunLog\n"
        "write = RunLog.write\n"
        "def stopping(self, line):\n"
        "    write(self, line)\n"
        "    if line.get('loss') and line['step'] == 4: os.kill(os.getpid(), signal.SIGTERM)\n"
        "RunLog.write = stopping\n"
        "from llama_cli.cli import main\n"
        f"main({command.split()!r})\n"
    )
    (data / "stop.py").write_text(stop)
    assert sh(f"{sys.executable} stop.py", data, env=env).returncode == 75
    assert sh(f"llama {command}", data, env=env).returncode == 0
    told = [json.loads(found) for found in (data / "told").read_text().splitlines()]
    assert len({run for run, *_ in told}) == 1
    assert [found for _, what, found in told if what == "finish"] == [1, 0]
    assert [found for _, what, found in told if what == "config"] == ["3m", "3m"]
    steps = [found["step"] for _, what, found in told if what == "log" and "loss" in found]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("option", "module", "package"),
    [("--tensorboard", "tensorboard", "tensorboard"), ("--wandb llamas", "wandb", "wandb")],
)
def test_a_tracker_that_is_missing_is_said_before_anything_is_done(
    data: Path, option: str, module: str, package: str
) -> None:
    (data / "fake").mkdir()
    (data / "fake" / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    env = {"PYTHONPATH": f"{ROOT}:{data / 'fake'}"}
    done = sh(f"llama {TRAIN} --run r {option}", data, env=env)
    assert done.returncode == 1
    name = "TensorBoard" if module == "tensorboard" else "Weights & Biases"
    assert done.stderr == (
        f"llama train: {name} is not installed ({module})\n  try: pip install {package}\n"
    )
    assert not (data / "r/settings.json").exists()


# spikes

PLANTED = """
import sys
from tests.unit.planted import plant
from llama_cli.cli import main
plant()
main(sys.argv[1:])
"""
SPIKED = (
    "train --data {data} --device cpu --batch 4 --micro-batch 2 --steps 12 --checkpoint-every 3"
)


def planted(cwd: Path, options: str) -> subprocess.CompletedProcess[str]:
    (cwd / "planted.py").write_text(PLANTED)
    return sh(f"{sys.executable} planted.py {options}", cwd)


@pytest.mark.parametrize("choice", ["skip", "rewind"])
def test_a_run_with_bad_batches_is_killed_and_ends_with_the_same_bits(
    tmp_path: Path, choice: str
) -> None:
    write_batches(tmp_path / "data", range(1, 40), {5, 8})
    command = f"{SPIKED.format(data='data')} --on-spike {choice}"
    whole = planted(tmp_path, f"{command} --run whole")
    assert whole.returncode == 0, whole.stderr
    assert "the loss is not a number" in whole.stderr
    for step in (5, 8):
        process = subprocess.Popen(
            [sys.executable, "planted.py", *command.split(), "--run", "killed"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        wait_for_step(process, tmp_path / "killed", step)
        process.kill()
        process.wait()
    assert planted(tmp_path, f"{command} --run killed").returncode == 0
    for run in ("whole", "killed"):
        lines = [found for found in read_log(tmp_path / run / "log.jsonl") if "loss" in found]
        assert [found["step"] for found in lines] == list(range(1, 13))
    assert same_lines(tmp_path / "whole", tmp_path / "killed")
    expected = [[5, 5], [8, 8]] if choice == "skip" else [[4, 5], [6, 8]]
    for run in ("whole", "killed"):
        held = json.loads((tmp_path / run / "skipped.json").read_text())
        assert [[each["first"], each["last"]] for each in held] == expected


def same_lines(one: Path, other: Path) -> bool:
    names = ("step", "loss", "grad_norm", "lr")
    left, right = (
        [
            [found[name] for name in names]
            for found in read_log(run / "log.jsonl")
            if "loss" in found
        ]
        for run in (one, other)
    )
    return left == right


def test_a_stop_is_one_line_with_its_cure_and_another_choice_goes_on(tmp_path: Path) -> None:
    write_batches(tmp_path / "data", range(1, 40), {5})
    command = f"{SPIKED.format(data='data')} --run r"
    done = planted(tmp_path, f"{command} --on-spike stop -q")
    assert done.returncode == 1
    assert done.stderr == (
        "llama train: step 5: the loss is not a number\n"
        "  try: llama train --on-spike rewind or skip; or --run ANOTHER --lr 0.0015\n"
    )
    assert not (tmp_path / "r/checkpoint-0000006").exists()
    seen = sh("llama train --watch r", tmp_path)
    assert seen.returncode == 75
    assert "r has stopped after step 4: step 5: the loss is not a number" in seen.stderr
    assert planted(tmp_path, f"{command} --on-spike skip").returncode == 0


def test_skipping_is_as_if_the_batch_was_not_there(tmp_path: Path) -> None:
    write_batches(tmp_path / "bad", range(1, 40), {5})
    write_batches(tmp_path / "good", [n for n in range(1, 40) if n != 5], ())
    for data, option in (("bad", "--on-spike skip"), ("good", "")):
        command = SPIKED.format(data=data)
        assert planted(tmp_path, f"{command} --run run-{data} {option}").returncode == 0
    assert same_lines(tmp_path / "run-bad", tmp_path / "run-good")
