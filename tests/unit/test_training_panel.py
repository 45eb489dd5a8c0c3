"""The figures of a run from its log, and what a terminal of any size shows of them."""

from __future__ import annotations

import json
import os
import pty
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from llama_cli.stream import block as block_module
from llama_cli.stream.block import STYLE, Block, rows, shown
from llama_cli.stream.progress import Progress
from llama_cli.training.panel import ROWS, Pen, draw, progress
from llama_cli.training.view import PATIENCE, POINTS, STALLED, Curve, View
from tests.screen import Screen

RUN = {"run": {"size": "3m", "device": "cpu", "steps": 1000, "processes": 1}}


def step(number: int, loss: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "step": number,
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "tokens": number * 1024,
        "tokens_per_second": 12345.6,
        "tokens_per_second_per_gpu": 6172.8,
        "mfu": 0.431,
        "memory": 1_234_000_000,
        "watts": 321.4,
        "data_wait": 0.002,
        "seconds": 0.2,
        **more,
    }


def fed(*lines: Any) -> View:
    view = View()
    for line in (RUN, *lines):
        view.feed(line)
    return view


def text(view: View, width: int = 79, height: int = 23, **options: Any) -> str:
    return "\n".join(draw(view, width, height, title="runs/a", pen=Pen(**options)))


# the curve


def test_a_curve_of_any_length_is_held_in_few_points_with_its_mean() -> None:
    curve = Curve()
    for number in range(1, 10_001):
        curve.add(number, float(number))
    points = curve.points()
    assert POINTS // 2 <= len(points) <= POINTS
    assert points[0][0] == 1
    assert [value for _, value in points] == sorted(value for _, value in points)
    assert abs(points[-1][1] - 10_000) < 40


def test_a_curve_goes_back_with_the_run() -> None:
    curve = Curve()
    for number in (1, 2, 3, 4, 5, 3):
        curve.add(number, float(number))
    assert curve.points() == [(1, 1.0), (2, 2.0), (3, 3.0)]


# the view


def test_the_newest_figures_are_held() -> None:
    view = fed(step(1), {"step": 1, "validation_loss": 3.0}, {"step": 1, "checkpoint": "c"})
    assert (view.step, view.steps, view.checkpoint) == (1, 1000, 1)
    assert view.validation["validation_loss"] == 3.0


def test_the_time_left_is_that_of_the_last_steps() -> None:
    view = fed(*(step(number, seconds=9.0) for number in range(1, 100)))
    for number in range(100, 200):
        view.feed(step(number, seconds=0.5))
    assert view.seconds_left == (1000 - 199) * 0.5


def test_a_run_is_stalled_after_ten_usual_steps_and_half_a_minute() -> None:
    slow = fed(*(step(number, seconds=20.0) for number in range(1, 9)))
    quick = fed(*(step(number, seconds=0.1) for number in range(1, 9)))
    assert not slow.is_stalled(20 * STALLED)
    assert slow.is_stalled(20 * STALLED + 1)
    assert not quick.is_stalled(PATIENCE)
    assert quick.is_stalled(PATIENCE + 1)


def test_a_run_that_has_not_begun_or_has_ended_is_not_stalled() -> None:
    assert not fed().is_stalled(1e9)
    assert not fed(step(1), {"step": 1, "end": "stopped"}).is_stalled(1e9)


def test_batches_left_out_are_counted() -> None:
    view = fed(
        {"step": 4, "spike": "skip", "batches": [5, 5], "why": ""},
        {"step": 4, "spike": "rewind", "batches": [6, 9], "why": ""},
        {"step": 4, "spike": "noted", "why": ""},
    )
    assert view.skipped == 5


def test_a_run_that_goes_on_has_not_ended() -> None:
    view = fed(step(3), {"step": 3, "end": "stopped", "why": ""}, step(4))
    assert not view.end


# the panel


def test_every_figure_is_shown_with_its_name() -> None:
    view = fed(step(500), {"step": 400, "validation_loss": 2.5}, {"step": 400, "checkpoint": "c"})
    assert text(view).split("\n")[0] == "runs/a  3m  cpu"
    shown = " ".join(text(view).split())
    for words in (
        "step 500 of 1,000, loss 2.000, 1 min 40 s left",
        "validation 2.500 @400",
        "grad norm 0.5",
        "lr 0.001",
        "tokens 512,000",
        "tokens/s 12,346",
        "MFU 43.1%",
        "memory 1.23 GB",
        "power 321 W",
        "data wait 1.0%",
        "checkpoint step 400",
    ):
        assert words in shown


def test_what_is_not_known_is_not_made_up() -> None:
    shown = text(fed(step(1, mfu=None, watts=None)))
    assert "?" in shown
    assert "power" not in shown
    assert text(View()).endswith("no step yet")


def test_several_processes_are_named_with_the_rate_of_each() -> None:
    view = fed(step(1))
    view.about = {**RUN["run"], "processes": 8, "device": "NVIDIA A100"}
    assert "8 x NVIDIA A100" in text(view)
    assert "6,173" in text(view)


def test_the_curve_falls_from_left_to_right() -> None:
    lines = text(fed(*(step(n, 10 - n / 100) for n in range(1, 901)))).split("\n")[2 : 2 + ROWS]
    assert lines[0].startswith("  9.9")
    assert lines[-1].startswith("  1.0")
    assert [len(line) for line in lines] == sorted(len(line) for line in lines)
    assert len(lines[-1]) == 79


@pytest.mark.parametrize("width", [1, 5, 23, 24, 39, 40, 60, 79, 100, 250])
@pytest.mark.parametrize("height", [1, 3, 4, 7, 10, 50])
@pytest.mark.parametrize("colour", [False, True])
def test_no_terminal_is_too_small(width: int, height: int, colour: bool) -> None:
    view = fed(*(step(n, 10 / n) for n in range(1, 300)), {"step": 9, "spike": "noted", "why": ""})
    for state in ("", "stalled: no line for 3 min, killed?"):
        lines = draw(view, width, height, title="runs/a/long/name", pen=Pen(colour), state=state)
        assert 1 <= len(lines) <= height
        assert max(len(STYLE.sub("", line)) for line in lines) <= width


def test_a_terminal_without_colour_or_blocks_gets_neither() -> None:
    view = fed(*(step(n, 10 / n) for n in range(1, 300)))
    assert "\x1b" in text(view, colour=True)
    assert "\x1b" not in text(view)
    assert text(view, blocks=False).isascii()


def test_a_frame_is_drawn_in_less_than_a_millisecond() -> None:
    view = fed(*(step(n, 10 / n) for n in range(1, 3000)))
    times = []
    for _ in range(50):
        start = time.perf_counter()
        draw(view, 100, 30, title="runs/a", pen=Pen(colour=True))
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_a_line_is_taken_in_less_than_a_tenth_of_a_millisecond() -> None:
    view = fed()
    start = time.perf_counter()
    for number in range(1, 5001):
        view.feed(step(number))
    assert time.perf_counter() - start < 0.5


def test_words_on_the_way_are_those_of_the_plain_line() -> None:
    assert progress(fed(step(1000))) == "step 1,000 of 1,000, loss 2.000"


# the block that shows it


class Terminal:
    """A terminal for stderr, and what was written to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.main, self.side = pty.openpty()
        mode = termios.tcgetattr(self.side)
        mode[1] &= ~termios.OPOST  # what is written is what is read
        termios.tcsetattr(self.side, termios.TCSANOW, mode)
        self.size = (40, 10)
        self.stderr = open(self.side, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        monkeypatch.setattr(block_module, "FILE", self.side)
        monkeypatch.setattr(block_module, "size", lambda: self.size)
        monkeypatch.setattr(block_module, "SECONDS", 0.01)
        monkeypatch.setenv("TERM", "xterm")

    def read(self) -> str:
        os.set_blocking(self.main, False)
        found = b""
        try:
            while data := os.read(self.main, 65536):
                found += data
        except BlockingIOError:
            pass
        return found.decode()

    def close(self) -> None:
        self.stderr.close()
        os.close(self.main)
        os.close(self.side)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    found = Terminal(monkeypatch)
    yield found
    found.close()


def wait(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def test_a_block_changes_in_place_and_leaves_nothing(terminal: Terminal) -> None:
    pictures = iter([["one"], ["two", "three"], ["four"]])
    last: list[str] = []

    def draw_next(width: int, height: int) -> list[str]:
        assert (width, height) == (39, 9)
        last[:] = next(pictures, last)
        return list(last)

    block = Block(draw_next)
    screen, seen = Screen(40), []

    def moved() -> bool:
        screen.write(terminal.read())
        seen.append([line for line in screen.lines if line])
        return seen[-1] == ["four"]

    wait(moved)
    assert all(each in ([], ["one"], ["two", "three"], ["four"]) for each in seen)
    block.say("lasting")
    wait(lambda: screen.write(terminal.read()) or screen.lines[:2] == ["lasting", "four"])
    block.close()
    screen.write(terminal.read())
    assert screen.lines == ["lasting", ""]
    assert screen.column == 0


def test_what_was_said_last_is_shown_though_the_block_closes_at_once(terminal: Terminal) -> None:
    block = Block(lambda width, height: ["picture"])
    block.say("one")
    block.say("two")
    block.close()
    screen = Screen(40)
    screen.write(terminal.read())
    assert screen.lines == ["one", "two", ""]


def test_a_block_on_a_narrowed_terminal_is_wiped_whole(terminal: Terminal) -> None:
    block = Block(lambda width, height: ["x" * width, "y" * width])
    screen = Screen(40)
    wait(lambda: screen.write(terminal.read()) or "y" in screen.lines[-1])
    terminal.size = (20, 10)
    wait(lambda: "y" in terminal.read())
    assert rows(["x" * 39, "y" * 39], 20) == 4  # what the terminal made of it
    block.close()


def test_a_mistake_in_drawing_is_said_and_harms_nothing(terminal: Terminal) -> None:
    def broken(width: int, height: int) -> list[str]:
        raise KeyError("loss")

    block, screen = Block(broken), Screen(40)
    wait(lambda: screen.write(terminal.read()) or "a bug of ours: KeyErr" in screen.lines[0])
    block.close()


def test_a_terminal_that_has_gone_ends_the_block(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = os.open(os.devnull, os.O_RDONLY)  # cannot be written to
    monkeypatch.setattr(block_module, "FILE", number)
    block = Block(lambda width, height: ["picture"])
    wait(lambda: not block.is_alive)
    block.say("nobody hears this")
    block.close()
    os.close(number)


def test_words_go_above_the_block_while_there_is_one(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal.stderr)
    talk = Progress("train")
    with shown(talk, lambda width, height: ["picture"]):
        talk.say("one")
    talk.say("two")
    screen = Screen(40)
    screen.write(terminal.read())
    assert screen.lines == ["llama train: one", "llama train: two", ""]


@pytest.mark.parametrize("quiet", [True, False])
def test_there_is_no_block_without_a_terminal_or_when_quiet(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        with shown(Progress("train", quiet=quiet), lambda width, height: ["picture"]):
            pass
    assert (tmp_path / "log").read_text() == ""


def test_a_line_of_the_log_is_json_that_a_view_takes() -> None:
    assert fed(json.loads(json.dumps(step(7)))).step == 7
