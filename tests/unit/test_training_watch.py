"""Following a log that another process writes, cuts back and leaves."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import NotReadyError
from llama_cli.training.lock import is_free, locked
from llama_cli.training.log import RunLog
from llama_cli.training.view import PATIENCE
from llama_cli.training.watch import Follower

ABOUT = {"steps": 9}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def line(step: int, loss: float = 2.0) -> dict[str, Any]:
    return {"step": step, "loss": loss, "seconds": 4.0}


@pytest.fixture
def begun() -> Iterator[Callable[..., RunLog]]:
    """Begin logs, and close them at the end of the test."""
    logs = []

    def begin(run: Path, step: int = 0) -> RunLog:
        logs.append(RunLog(run, about=ABOUT, step=step))
        return logs[-1]

    yield begin
    for log in logs:
        log.close()


def follow(run: Path) -> Follower:
    return Follower(run, Clock())


def test_lines_are_seen_once_as_they_come(tmp_path: Path, begun: Callable[..., RunLog]) -> None:
    log = begun(tmp_path)
    log.write(line(1))
    found = follow(tmp_path)
    assert found.poll() == [{"run": ABOUT}, line(1)]
    assert found.poll() == []
    log.write(line(2))
    assert found.poll() == [line(2)]
    assert (found.view.step, found.view.steps) == (2, 9)


def test_a_line_that_is_half_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    text = json.dumps(line(1)) + "\n" + json.dumps(line(2)) + "\n"
    path.write_text(text[:-9])
    found = follow(tmp_path)
    assert found.poll() == [line(1)]
    assert found.poll() == []
    with path.open("a") as file:
        file.write(text[-9:])
    assert found.poll() == [line(2)]


def test_a_log_that_is_cut_back_is_read_anew(tmp_path: Path, begun: Callable[..., RunLog]) -> None:
    log = begun(tmp_path)
    for step in (1, 2, 3, 4):
        log.write(line(step))
    found = follow(tmp_path)
    found.poll()
    log.close()
    again = begun(tmp_path, step=2)
    again.write(line(3, 7.0))
    assert found.poll() == [{"run": ABOUT}, line(1), line(2), line(3, 7.0)]
    assert found.view.step == 3
    assert found.view.curve.points() == [(1, 2.0), (2, 2.0), (3, 7.0)]


def test_a_log_shortened_in_its_place_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line(step)) + "\n" for step in (1, 2, 3)))
    found = follow(tmp_path)
    found.poll()
    path.write_text(json.dumps(line(1)) + "\n")
    assert found.poll() == [line(1)]


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(
        b'\xff\xfe\n[1]\n\n{"step": 1\n' + b'{"step": 2, "x": 1}\n'
    )
    found = follow(tmp_path)
    assert found.poll() == [{"step": 2, "x": 1}]
    assert found.view.step == 0


@pytest.mark.parametrize("sign", ["settings.json", ".lock"])
def test_a_run_without_a_log_yet_is_waited_for(
    tmp_path: Path, sign: str, begun: Callable[..., RunLog]
) -> None:
    (tmp_path / sign).touch()
    found = follow(tmp_path)
    assert found.poll() == []
    begun(tmp_path)
    assert found.poll() == [{"run": ABOUT}]


def test_a_run_that_went_without_a_word_has_ended_once_its_silence_is_long(
    tmp_path: Path, begun: Callable[..., RunLog]
) -> None:
    with locked(tmp_path):
        begun(tmp_path).write(line(1))
        os.utime(tmp_path / "log.jsonl", (900.0, 900.0))
        found = follow(tmp_path)
        found.poll()
        assert found.stalled
        assert not found.has_ended  # a process has its lock
    assert found.has_ended
    os.utime(tmp_path / "log.jsonl", (990.0, 990.0))
    again = follow(tmp_path)
    again.poll()
    assert not again.has_ended  # another process may take its place


def test_a_run_that_could_not_write_its_log_has_ended(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    found = follow(tmp_path)
    assert not found.has_ended
    found.clock.now += PATIENCE + 1
    assert found.has_ended


def test_whoever_asks_for_a_moment_whether_a_run_is_held_keeps_none_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with locked(tmp_path):
        assert not is_free(tmp_path)
    with (tmp_path / ".lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
        with locked(tmp_path):
            pass


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(NotReadyError, match="no run in"):
            follow(path)


def test_silence_counts_from_the_last_write(tmp_path: Path, begun: Callable[..., RunLog]) -> None:
    log = begun(tmp_path)
    log.write(line(1))
    os.utime(tmp_path / "log.jsonl", (900.0, 900.0))
    found = follow(tmp_path)
    found.poll()
    assert found.silence == 100.0
    assert found.stalled  # ten steps take 40 seconds
    log.write(line(2))
    os.utime(tmp_path / "log.jsonl", (990.0, 990.0))
    found.poll()
    assert not found.stalled
    os.utime(tmp_path / "log.jsonl", (2000.0, 2000.0))  # another machine's clock
    log.write(line(3))
    found.poll()
    assert found.silence == 0.0
