"""How the launcher treats its processes, with small stand-ins for those that train."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llama_cli.errors import LOST, Elsewhere, Interrupted, LlamaError
from llama_cli.training import launch as module
from llama_cli.training import meeting
from llama_cli.training.launch import Launch, launch
from llama_cli.training.place import Place
from llama_cli.training.stop import unsaved
from tests.shell import ROOT

TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_RESTART_COUNT")
HEAD = """
import os, signal, sys, time
from pathlib import Path
rank, start = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
launcher = os.getppid()
"""


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command has it
    for name in ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    yield
    logging.disable(logging.NOTSET)


def run(
    code: str, *, said: list[str] | None = None, mark: Path | None = None, **changes: Any
) -> None:
    """Launch two processes of `code`, which knows `rank`, `start` and `launcher`."""
    options = {"processes": 2, "restarts": 2, **changes}
    launch(
        Launch(
            [sys.executable, "-c", HEAD + code],
            place=Place(),
            progress=lambda: mark.stat().st_size if mark and mark.exists() else 0,
            say=(said if said is not None else []).append,
            **options,
        )
    )


def test_each_process_is_told_who_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    code = f"Path('{tmp_path}', str(rank)).write_text(' '.join(map(os.environ.get, {TOLD})))"
    run(code, said=said)
    assert (tmp_path / "0").read_text() == "0 2 0 127.0.0.1 0"
    assert (tmp_path / "1").read_text() == "1 2 1 127.0.0.1 0"
    assert said == ["2 processes on 1 machine"]


def test_a_killed_process_is_replaced_with_all_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    code = f"""
Path('{tmp_path}', f'{{rank}}-{{start}}').touch()
if start == 0: os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit({LOST})
"""
    run(code, said=said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "0-1", "1-0", "1-1"]
    assert said[1] == "process 1 was ended by SIGKILL; going on from the last checkpoint"


def test_a_process_that_hangs_when_another_has_gone_is_killed() -> None:
    begun = time.monotonic()
    run("start or (os.kill(os.getpid(), 9) if rank else time.sleep(60))")
    assert time.monotonic() - begun < 10


def test_losses_in_a_row_end_the_run() -> None:
    said: list[str] = []
    with pytest.raises(LlamaError) as caught:
        run("os.kill(os.getpid(), 9)", said=said)
    wanted = r"process [01] was ended by SIGKILL, after 2 restarts without a checkpoint"
    assert re.fullmatch(wanted, str(caught.value))
    assert caught.value.exit_code == 1
    assert caught.value.hint == "the same command again; with -v each process says what it saw"
    assert len([line for line in said if "going on" in line]) == 2


def test_a_checkpoint_in_between_begins_the_count_anew(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"if rank == 0: open('{mark}', 'a').write('.')\nstart < 4 and os.kill(os.getpid(), 9)"
    run(code, mark=mark, restarts=1)


def test_without_restarts_the_first_loss_ends_the_run() -> None:
    with pytest.raises(LlamaError, match=r"process 1 was ended by SIGSEGV$"):
        run("rank and os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)", restarts=0)


@pytest.mark.parametrize("code", [1, 2, 3, 75])
def test_the_code_of_the_process_that_spoke_is_kept(code: int) -> None:
    with pytest.raises(Elsewhere) as caught:
        run(f"sys.exit({code} if rank else {LOST})")
    assert caught.value.exit_code == code


def test_a_process_has_time_to_say_why_after_others_have_noticed() -> None:
    with pytest.raises(Elsewhere) as caught:
        run(f"rank or sys.exit({LOST}); time.sleep(0.5); sys.exit(3)")
    assert caught.value.exit_code == 3


WAIT = "signal.signal(signal.{0}, lambda *a: sys.exit(75)); Path('{1}', str(rank)).touch()\n"
BOTH = "while len(os.listdir('{0}')) < 2: time.sleep(0.01)\n"


@pytest.mark.parametrize(
    ("sent", "heard"), [("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGUSR1"), ("SIGHUP", "SIGTERM")]
)
def test_a_signal_reaches_every_process(tmp_path: Path, sent: str, heard: str) -> None:
    code = WAIT.format(heard, tmp_path) + BOTH.format(tmp_path)
    with pytest.raises(Elsewhere) as caught:
        run(code + f"rank or os.kill(launcher, signal.{sent}); time.sleep(60)")
    assert caught.value.exit_code == 75


def test_a_process_that_hears_nothing_while_another_is_ended_is_killed(tmp_path: Path) -> None:
    """As one that waits, within PyTorch, for one that the signal has ended already."""
    deaf = "rank and signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code = f"{deaf}Path('{tmp_path}', str(rank)).touch()\n" + BOTH.format(tmp_path)
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        run(code + "rank or os.kill(launcher, signal.SIGTERM); time.sleep(60)")
    assert time.monotonic() - begun < 30


def test_ctrl_c_ends_as_ctrl_c(tmp_path: Path) -> None:
    end = "signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + WAIT.format("SIGUSR2", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(end + BOTH.format(tmp_path) + "rank or os.kill(launcher, 2); time.sleep(60)")


def test_what_came_before_there_was_anything_to_save_is_said() -> None:
    with pytest.raises(Interrupted, match="stopped before there was a checkpoint"):
        run("rank or os.kill(launcher, signal.SIGTERM); time.sleep(60)")


def test_the_second_signal_has_its_usual_effect() -> None:
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    once = "signal.signal(10, lambda number, frame: signal.signal(10, signal.SIG_DFL))\n"
    twice = "[os.kill(launcher, 10), time.sleep(1.1), os.kill(launcher, 10)]"
    try:
        with pytest.raises(Interrupted), unsaved():  # as the command does
            run(f"{once}time.sleep(0.3); rank or {twice}; time.sleep(60)")
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run("rank or os.kill(launcher, signal.SIGINT); time.sleep(0.2)")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_launcher_takes_its_processes_along(tmp_path: Path) -> None:
    code = f"""
from llama_cli.training.launch import follow_launcher
follow_launcher(); Path('{tmp_path}', str(os.getpid())).touch(); time.sleep(60)
"""
    process = driver(code, Place())
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while any(Path("/proc", path.name).exists() for path in tmp_path.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)


def driver(code: str, place: Place, processes: int = 2, wait: str = "") -> subprocess.Popen[str]:
    """Launch in a process of its own, another machine as it were, once `wait` is over."""
    script = f"""
import os, socket, sys, time
from pathlib import Path
import torch.distributed.elastic.rendezvous.dynamic_rendezvous
from llama_cli.errors import LlamaError
from llama_cli.training import launch, meeting, pulse
from llama_cli.training.place import Place
launch.PATIENCE, meeting.LAST_CALL, pulse.SILENT = 1.0, 1, 5.0
say = lambda text: print(text, file=sys.stderr, flush=True)
{wait}
try:
    launch.launch(launch.Launch({[sys.executable, "-c", HEAD + code]!r}, {processes}, {place!r}, 2,
                                lambda: 0, say))
except LlamaError as error:
    say(f"{{type(error).__name__}}: {{error}}")
    sys.exit(error.exit_code)
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


FIRST = """
while len(os.listdir({ready!r})) < {others}: time.sleep(0.01)
"""
OTHER = """
Path({ready!r}, str(os.getpid())).touch()
while True:
    try:
        socket.create_connection(("127.0.0.1", {port})).close()
        break
    except OSError:
        time.sleep(0.01)
"""


def machines(
    count: int, fewest: int, code: str, ranks: Sequence[int | None] = (None,) * 4
) -> list[subprocess.Popen[str]]:
    """Launch as `count` machines, all ready before the first is, where they meet."""
    port, ready = free_port(), tempfile.mkdtemp()
    waits = [FIRST.format(ready=ready, others=count - 1)]
    waits += [OTHER.format(ready=ready, port=port)] * (count - 1)
    places = [Place("launcher", fewest, count, "127.0.0.1", port, ranks[n]) for n in range(count)]
    return [driver(code, place, wait=wait) for place, wait in zip(places, waits, strict=True)]


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, list[str]]]:
    said = [process.communicate(timeout=100)[1].splitlines() for process in processes]
    return [(process.returncode, lines) for process, lines in zip(processes, said, strict=True)]


def test_two_machines_number_their_processes_as_they_are_asked_to(tmp_path: Path) -> None:
    code = f"Path('{tmp_path}', str(rank)).write_text(str(launcher)); time.sleep(0.5)"
    both = machines(2, 2, code, ranks=(1, 0))
    assert [code for code, _ in ended(both)] == [0, 0]
    wanted = [both[1].pid, both[1].pid, both[0].pid, both[0].pid]
    assert [int((tmp_path / str(rank)).read_text()) for rank in range(4)] == wanted


def test_what_ends_the_run_on_one_machine_ends_it_on_the_other() -> None:
    code = f"rank and sys.exit({LOST}); time.sleep(0.3); sys.exit(3)"
    found = ended(machines(2, 2, code))
    assert [code for code, _ in found] == [3, 3]
    lines = [line for _, lines in found for line in lines]
    assert sorted(lines) == ["4 processes on 2 machines", *["Elsewhere: said by a process"] * 2]


def test_a_process_lost_on_one_machine_is_replaced_on_both(tmp_path: Path) -> None:
    code = f"""
if start == 0: os.kill(os.getpid(), 9) if rank == 3 else (time.sleep(0.2), sys.exit({LOST}))
Path('{tmp_path}', str(rank)).touch()
"""
    found = ended(machines(2, 2, code, ranks=(0, 1)))
    assert [code for code, _ in found] == [0, 0]
    assert found[0][1][1].startswith("a process of another machine has gone; going on")
    assert found[1][1] == ["process 3 was ended by SIGKILL; going on from the last checkpoint"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
def test_a_lost_machine_is_done_without(tmp_path: Path) -> None:
    """Slow: the others wait three heartbeats, of 5 s, for one that has gone."""
    code = f"""
from llama_cli.training.launch import follow_launcher
follow_launcher()
world = int(os.environ["WORLD_SIZE"])
Path('{tmp_path}', f'{{world}}-{{rank}}').touch()
while world == 6 and not Path('{tmp_path}', 'gone').exists(): time.sleep(0.05)
time.sleep(0.5)
if world == 6: sys.exit({LOST})
"""
    three = machines(3, 2, code, ranks=(0, 1, 2))
    while len(list(tmp_path.iterdir())) < 6:
        time.sleep(0.1)
    three[1].kill()
    (tmp_path / "gone").touch()
    found = ended(three)
    assert [code for code, _ in found] == [0, -9, 0], found
    assert found[0][1][-1] == "4 processes on 2 machines"
    assert (tmp_path / "4-3").exists()


@pytest.mark.slow
def test_a_silent_machine_is_done_without(tmp_path: Path) -> None:
    """Slow: silence has to last, and then three heartbeats of 5 s."""
    code = f"""
from llama_cli.training.launch import follow_launcher
follow_launcher()
world = int(os.environ["WORLD_SIZE"])
Path('{tmp_path}', f'{{world}}-{{rank}}').touch()
time.sleep(100 if world == 4 else 0)
"""
    both = machines(2, 1, code, ranks=(0, 1))
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.1)
    both[1].send_signal(signal.SIGSTOP)  # as without power: nothing is closed
    found = ended(both[:1])
    both[1].kill()
    both[1].communicate()
    lost = "the machine at 127.0.0.1 is silent; going on from the last checkpoint"
    assert found == [(0, ["4 processes on 2 machines", lost, "2 processes on 1 machine"])]


@pytest.mark.slow
def test_without_the_machine_where_all_meet_the_others_end(tmp_path: Path) -> None:
    """Slow: silence has to last."""
    code = f"""
from llama_cli.training.launch import follow_launcher
follow_launcher()
Path('{tmp_path}', str(rank)).touch()
time.sleep(100)
"""
    both = machines(2, 1, code, ranks=(0, 1))
    while len(list(tmp_path.iterdir())) < 4:
        time.sleep(0.1)
    both[0].kill()
    assert ended(both)[1] == (
        1,
        ["LlamaError: 127.0.0.1, where the machines meet, is silent"],
    )


@pytest.mark.slow
def test_a_machine_that_comes_later_takes_part(tmp_path: Path) -> None:
    """Slow: the machines look for others every 2 s, and save before they meet again."""
    code = f"""
signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
world = int(os.environ["WORLD_SIZE"])
Path('{tmp_path}', f'{{world}}-{{rank}}').touch()
time.sleep(60 if world == 2 else 0.5)
"""
    place = Place("launcher", 1, 2, "127.0.0.1", free_port())
    first = driver(code, place)
    while not (tmp_path / "2-1").exists():
        time.sleep(0.1)
    found = ended([first, driver(code, place)])
    assert [code for code, _ in found] == [0, 0]
    assert "another machine has come" in found[0][1]
    assert (tmp_path / "4-3").exists()


def test_nobody_at_the_meeting_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "MEET", 1)
    monkeypatch.setattr(meeting, "_is_mine", lambda host: False)
    said: list[str] = []
    port = free_port()
    with pytest.raises(LlamaError, match=f"nobody answers at 127.0.0.1:{port}"):
        meeting.Meeting(Place("launcher", 2, 2, "127.0.0.1", port), said.append)
    assert said == [f"waiting for a launcher at 127.0.0.1:{port}"]


def test_too_few_machines_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "MEET", 1)
    place = Place("launcher", 2, 2, "127.0.0.1", free_port())
    alone = meeting.Meeting(place, print)
    with pytest.raises(LlamaError, match=r"fewer than 2 machines came to 127\.0\.0\.1"):
        alone.join(1)


def test_a_machine_that_is_not_known_is_said() -> None:
    with pytest.raises(LlamaError, match=r"no\.such\.machine"):
        meeting.Meeting(Place("launcher", 2, 2, "no.such.machine", 1), print)
