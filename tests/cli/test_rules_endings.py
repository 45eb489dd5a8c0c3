"""How a command ends: closed pipes, signals, full disks, and streams that are not there."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cli.lines import good, ids, start, wait_for, write
from tests.shell import sh

# 9 to 14: how it ends


@pytest.mark.parametrize("count", [3, 60_000])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_reader_that_leaves_early_is_not_an_error_message(
    tmp_path: Path, count: int, jobs: int
) -> None:
    write(tmp_path / "in", count)
    script = f"llama filter -j {jobs} in | {{ head -1; sleep 0.1; }}; echo ${{PIPESTATUS[0]}}"
    done = sh(
        script if count > 3 else "(sleep 1; llama filter -q in) | true; echo ${PIPESTATUS[0]}",
        tmp_path,
    )
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)]
)
def test_a_signal_ends_it_by_that_signal_and_leaves_no_half_file(
    tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    process = start(f"filter -j {jobs} -o out.jsonl --line-buffered", tmp_path)
    assert process.stdin is not None
    process.stdin.write("".join(good(n) + "\n" for n in range(12_000)).encode())
    process.stdin.flush()
    wait_for(lambda: any(tmp_path.iterdir()))
    time.sleep(0.3)
    process.send_signal(number)
    assert process.wait(20) == -number
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []
    process.communicate()


def test_a_closed_pipe_does_not_kill_at_once(tmp_path: Path) -> None:
    """A dropped socket must be an error that `fetch` can tell, not the end of the process."""
    script = (
        "import signal, llama_cli.carbon.estimate as estimate\n"
        "def look(*a, **k):\n"
        "    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN\n"
        "    raise ConnectionResetError(104, 'Connection reset by peer', 'http://a')\n"
        "estimate.estimate = look\n"
        "from llama_cli.cli import main\n"
        "main(['carbon', '--gpu-hours', '1'])\n"
    )
    (tmp_path / "look.py").write_text(script)
    done = sh(f"{sys.executable} look.py", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "llama carbon: http://a: Connection reset by peer\n",
    )


SWALLOWS = """
import signal, sys, time
def again(): signal.raise_signal(int(sys.argv[1]))
again()
{more}
try:
    time.sleep(0.2)
except BaseException:
    print("swallowed", flush=True)
print("loaded", flush=True)
"""
LOADS = """
import time
from llama_cli.__main__ import main
import llama_cli.carbon.estimate as estimate
def load(*a, **k):
    import swallows
    time.sleep(10)
estimate.estimate = load
main(['carbon', '--gpu-hours', '1'])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("more", "told"), [("", "loaded\n"), ("again()", "")])
def test_a_signal_waits_for_a_module_to_load_and_a_second_one_does_not(
    tmp_path: Path, number: signal.Signals, more: str, told: str
) -> None:
    """Loading torch in part, numpy said `a bug of ours`, or the signal was lost."""
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(more=more))
    (tmp_path / "loads.py").write_text(LOADS)
    before = time.monotonic()
    done = sh(f"exec {sys.executable} loads.py {number.value}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-number, told, "")
    assert time.monotonic() - before < 8


def test_a_full_disk_is_one_line_and_1(tmp_path: Path) -> None:
    write(tmp_path / "in", 100)
    done = sh("llama filter in > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "llama filter: <stdout>: No space left on device\n",
    )


def test_a_truncated_gzip_is_an_error_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "in", 9999)
    done = sh("gzip -c in | head -c 3000 | llama filter", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("compressed input ends early (truncated?)\n")


def test_more_bad_lines_than_allowed_end_with_3(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"{{oops\n{good(1)}\n{{oops\n")
    assert sh("llama filter --max-rejects 2 in", tmp_path).returncode == 0
    done = sh("llama filter --max-rejects 1 in", tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-2:] == [
        "llama filter: 2 malformed lines, more than the 1 allowed",
        "  try: a larger --max-rejects, or mend the lines named above",
    ]


# streams that are closed, full or somewhere else


def test_a_closed_stdout_is_an_error_in_words_and_takes_no_file_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    for command in ("llama filter a", "llama carbon --paper", "llama --help", "llama"):
        done = sh(f"{command} >&-", tmp_path)
        assert done.returncode == 1, command
        assert done.stderr.endswith(": <stdout>: Bad file descriptor\n"), command
    assert sh("llama filter a -o whole <&- >&- 2>&-", tmp_path).returncode == 0
    assert len((tmp_path / "whole").read_text().splitlines()) == 3


def test_a_closed_stdin_is_an_error_in_words(tmp_path: Path) -> None:
    done = sh("llama filter <&-", tmp_path)
    assert (done.returncode, done.stderr) == (1, "llama filter: <stdin>: Bad file descriptor\n")


def test_work_goes_on_where_messages_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    for lost in ("2>/dev/full", "2>&-"):
        done = sh(f"llama filter a {lost}", tmp_path)
        assert (done.returncode, ids(done.stdout)) == (0, [0, 1, 2])
    assert sh("llama filter missing 2>/dev/full", tmp_path).returncode == 1
    assert sh("llama filter --potato 2>/dev/full", tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["llama --help", "llama filter --help", "llama -V"])
def test_help_on_a_full_disk_is_one_line(tmp_path: Path, command: str) -> None:
    done = sh(f"{command} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(": <stdout>: No space left on device\n")
    assert len(done.stderr.splitlines()) == 1


def test_help_to_a_reader_that_left_is_silent(tmp_path: Path) -> None:
    done = sh("(sleep 1; llama --help) | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_an_error_names_the_output_as_the_user_does(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    full = sh("llama filter a -o /dev/full", tmp_path)
    assert full.stderr == "llama filter: /dev/full: No space left on device\n"
    away = sh("llama filter a -o away/b.zst", tmp_path)
    assert away.stderr == "llama filter: away/b.zst: No such file or directory\n"


def test_a_descriptor_is_written_in_place_and_a_link_through(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    (tmp_path / "link").symlink_to("target")
    done = sh("llama filter a --report stdout > both && llama filter a -o link", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "stdout").is_symlink()
    records, report = (tmp_path / "both").read_text().split("\n{\n", 1)
    assert ids(records) == [0, 1, 2]
    assert json.loads("{" + report)["result"]["out"] == 3
    assert (tmp_path / "link").is_symlink()
    assert ids((tmp_path / "target").read_text()) == [0, 1, 2]
