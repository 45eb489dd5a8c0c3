"""The rules of a good Unix tool, each as a real process under bash -o pipefail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shell import LLAMA, ROOT, on_terminal, sh

PACKS = {"plain": "cat", "gzip": "gzip -c", "bz2": "bzip2 -c", "xz": "xz -c"}
STREAMING = ["filter", "tokenize", "mix"]


def good(number: int) -> str:
    text = f"def function_{number}(value):\n    return value + {number}\n"
    return json.dumps({"id": str(number), "text": text, "source": "github", "metadata": {}})


def write(path: Path, count: int, start: int = 0) -> None:
    path.write_text("".join(good(number) + "\n" for number in range(start, start + count)))


def zstd(path: Path) -> Path:
    """Compress with the library: the zstd program is not on every machine."""
    import zstandard

    packed = path.with_name(f"{path.name}.zst")
    packed.write_bytes(zstandard.compress(path.read_bytes()))
    return packed


def ids(text: str) -> list[int]:
    return [int(json.loads(line)["id"]) for line in text.splitlines()]


# 1: input


def test_files_are_one_stream_in_order_and_dash_is_stdin(tmp_path: Path) -> None:
    write(tmp_path / "a", 2)
    write(tmp_path / "b", 2, start=2)
    write(tmp_path / "c", 2, start=4)
    done = sh("llama filter a - c < b", tmp_path)
    assert ids(done.stdout) == [0, 1, 2, 3, 4, 5]


def test_stdin_is_read_when_no_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    assert ids(sh("cat a | llama filter", tmp_path).stdout) == [0, 1, 2]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    done = sh("llama filter nothing", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "llama filter: nothing: No such file or directory\n",
    )


# 2, 7, 20, 28: terminals


@pytest.mark.parametrize("name", STREAMING)
def test_a_terminal_as_input_gets_help_and_2_at_once(tmp_path: Path, name: str) -> None:
    code, shown = on_terminal(f"llama {name}", tmp_path)
    assert code == 2
    assert f"Usage: llama {name}" in shown or f"Usage: python -m llama_cli {name}" in shown


def test_a_changing_line_is_wiped_before_the_summary(tmp_path: Path) -> None:
    write(tmp_path / "in", 60_000)
    code, shown = on_terminal("llama filter in > out", tmp_path)
    assert code == 0
    assert "\x1b[K" in shown
    assert shown.rstrip().split("\x1b[K")[-1].startswith("llama filter: 0.")


def test_no_line_changes_where_there_is_no_terminal(tmp_path: Path) -> None:
    write(tmp_path / "in", 60_000)
    assert "\r" not in sh("llama filter in > out", tmp_path).stderr


def test_without_a_terminal_a_plain_line_comes_now_and_then(tmp_path: Path) -> None:
    write(tmp_path / "in", 30_000)
    script = (
        "import llama_cli.stream.progress as progress\n"
        "assert progress.LOG_SECONDS == 30\n"
        "progress.LOG_SECONDS = 0.0\n"
        "from llama_cli.cli import main\n"
        "main(['filter', 'in', '-o', 'out'])\n"
    )
    (tmp_path / "often.py").write_text(script)
    lines = sh(f"{sys.executable} often.py", tmp_path).stderr.splitlines()
    assert len(lines) > 2
    for line in lines[:-1]:
        assert re.fullmatch(r"llama filter: [\d,]+ in, [\d,]+ out, 0 rejected, [\d,]+/s", line)


RED = "\x1b[31m\x1b[1mllama filter:\x1b[0m nothing: "


@pytest.mark.parametrize(
    ("command", "red"),
    [
        ("llama filter nothing", True),
        ("llama filter --color never nothing", False),
        ("NO_COLOR=1 llama filter nothing", False),
        ("NO_COLOR=1 llama filter --color always nothing", True),
        ("NO_COLOR= llama filter nothing", True),
        ("TERM=dumb llama filter nothing", False),
        ("TERM=dumb FORCE_COLOR=1 llama filter nothing", True),
    ],
)
def test_a_fatal_error_has_colour_on_a_terminal_unless_told(
    tmp_path: Path, command: str, red: bool
) -> None:
    code, shown = on_terminal(command, tmp_path)
    assert code == 1
    assert (RED in shown, "\x1b" in shown) == (red, red)


def test_without_a_terminal_only_force_gives_colour_and_data_has_none(tmp_path: Path) -> None:
    write(tmp_path / "in", 2)
    assert "\x1b" not in sh("llama filter nothing", tmp_path).stderr
    for force in ("FORCE_COLOR=1 llama filter", "llama filter --color always"):
        assert RED in sh(f"{force} nothing", tmp_path).stderr
        assert ids(sh(f"{force} in", tmp_path).stdout) == [0, 1]


def test_records_are_flushed_one_by_one_when_asked(tmp_path: Path) -> None:
    process = subprocess.Popen(
        f"{LLAMA} filter --line-buffered -q".split(),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    block = "".join(good(number) + "\n" for number in range(300)).encode()
    process.stdin.write(block)
    process.stdin.flush()
    assert process.stdout.readline().startswith(b'{"id":"0"')
    process.stdin.close()
    process.stdout.read()
    assert process.wait() == 0
    process.stdout.close()


# 3 to 6, 8: what goes where


def test_stdout_holds_records_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"{good(1)}\n{{oops\n{good(2)}\n")
    done = sh("llama filter -v in", tmp_path)
    assert ids(done.stdout) == [1, 2]


def test_a_bad_line_is_named_by_file_and_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"{good(1)}\n\n{{oops\n{good(2)}\n")
    done = sh("llama filter in", tmp_path)
    assert ids(done.stdout) == [1, 2]
    assert done.stderr.startswith("llama filter: in:3: not JSON")
    assert done.returncode == 0
    assert sh("llama filter < in", tmp_path).stderr.startswith("llama filter: <stdin>:3: not JSON")


def test_many_bad_lines_are_named_up_to_a_point_and_all_counted(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("{oops\n" * 100)
    lines = sh("llama filter in", tmp_path).stderr.splitlines()
    assert sum("not JSON" in line for line in lines) == 20
    assert "llama filter: 100 malformed lines in all (-v names each)" in lines
    assert sh("llama filter -v in", tmp_path).stderr.count("not JSON") == 100


def test_records_done_before_a_fatal_error_come_out(tmp_path: Path) -> None:
    from llama_cli.filters.duplicates import DOCUMENTS

    write(tmp_path / "in", 2000)
    done = sh("llama filter in nothing", tmp_path)
    assert done.returncode == 1
    assert ids(done.stdout) == list(range(2000 // DOCUMENTS * DOCUMENTS))


def test_messages_are_lower_case_without_a_full_stop(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("{oops\n[]\n{}\n")
    for line in sh("llama filter in", tmp_path).stderr.splitlines():
        message = line.removeprefix("llama filter: ")
        assert not message.endswith(".")
        assert not message[0].isupper()


def test_quiet_keeps_only_fatal_errors(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"{good(1)}\n{{oops\n")
    assert sh("llama filter -q in", tmp_path).stderr == ""
    fatal = sh("llama filter -q nothing", tmp_path).stderr
    assert fatal == "llama filter: nothing: No such file or directory\n"


def test_the_last_line_counts_and_says_what_it_cost(tmp_path: Path) -> None:
    write(tmp_path / "in", 3)
    last = sh("llama filter in", tmp_path).stderr.splitlines()[-1]
    assert re.fullmatch(
        r"llama filter: 0\.\d+\.\d+, 3 in, 3 out, 0 rejected, 0 malformed, "
        r"\d+\.\d s, \d+\.\d s CPU, \d+ MB peak",
        last,
    )


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


def start(command: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        f"{LLAMA} {command}".split(),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


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


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


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


# 15 to 19: compression and files


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_input_is_recognised_by_its_bytes_not_its_name(tmp_path: Path, pack: str) -> None:
    write(tmp_path / "a", 2)
    write(tmp_path / "b", 2, start=2)
    done = sh(
        f"({pack} a; {pack} b) > mystery; llama filter mystery && llama filter - < mystery",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert ids(done.stdout) == [0, 1, 2, 3] * 2


def test_concatenated_zstd_is_one_stream(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 2)):
        write(tmp_path / name, 2, start=first)
        zstd(tmp_path / name)
    assert ids(sh("cat a.zst b.zst | llama filter", tmp_path).stdout) == [0, 1, 2, 3]


def test_a_truncated_zst_names_the_file_and_the_line(tmp_path: Path) -> None:
    write(tmp_path / "in", 9999)
    packed = zstd(tmp_path / "in")
    packed.write_bytes(packed.read_bytes()[:-100])
    done = sh("llama filter in.zst -o out.jsonl", tmp_path)
    assert done.returncode == 1
    assert re.search(
        r"^llama filter: in\.zst:\d+: compressed input ends early", done.stderr, re.MULTILINE
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_replaces_the_old_one_only_when_whole(tmp_path: Path) -> None:
    write(tmp_path / "in", 10)
    (tmp_path / "out.jsonl").write_text("old")
    sh("gzip -c in | head -c 50 | llama filter -o out.jsonl", tmp_path)
    assert (tmp_path / "out.jsonl").read_text() == "old"
    sh("llama filter in -o out.jsonl", tmp_path)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 10


def test_a_device_is_written_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "in", 10)
    assert sh("llama filter in -o /dev/null && test -c /dev/null", tmp_path).returncode == 0


def test_rejects_keep_the_whole_record_with_step_and_reason(tmp_path: Path) -> None:
    odd = json.dumps({"id": "odd", "text": "#" * 50, "source": "github", "metadata": {"k": 1}})
    (tmp_path / "in").write_text(f"{good(1)}\n{odd}\n")
    done = sh("llama filter in --rejects dropped.jsonl", tmp_path)
    assert ids(done.stdout) == [1]
    (dropped,) = map(json.loads, (tmp_path / "dropped.jsonl").read_text().splitlines())
    assert dropped["id"] == "odd"
    assert dropped["metadata"] == {"k": 1}
    assert set(dropped["rejected"]) == {"step", "reason"}


# 20: buffering


def test_output_is_written_in_blocks_even_when_python_is_unbuffered(tmp_path: Path) -> None:
    write(tmp_path / "in", 5000)
    process = subprocess.Popen(
        f"{LLAMA} filter -q in".split(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    time.sleep(1.5)  # let the pipe fill: then one read takes what one write put there
    assert len(os.read(process.stdout.fileno(), 1 << 16)) > 30_000
    process.stdout.read()
    process.wait()
    process.stdout.close()


# 21 to 23: the same bytes, and the report


def test_the_output_does_not_depend_on_jobs(tmp_path: Path) -> None:
    write(tmp_path / "in", 30_000)
    outputs = {sh(f"llama filter -q -j {jobs} in | md5sum", tmp_path).stdout for jobs in (1, 2, 3)}
    assert len(outputs) == 1


def test_the_result_of_a_report_is_comparable_between_runs(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(f"{good(1)}\n{{oops\n")
    sh("llama filter in --report a.json; llama filter -j 2 in --report b.json", tmp_path)
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert list(first) == ["schema", "command", "version", "config", "result", "run"]
    assert first["result"] == second["result"]
    assert first["result"]["in"] == first["result"]["out"] == first["result"]["malformed"] == 1
    assert {"seconds", "cpu_seconds", "peak_rss", "host", "started"} <= set(first["run"])


# 24, 27, 32: options


def test_the_same_letter_means_the_same_everywhere() -> None:
    from llama_cli.cli import COMMANDS
    from tests.reference import found

    letters: dict[str, set[str]] = {}
    for name in COMMANDS:
        for parameter in found(name).params:
            long = [option for option in parameter.opts if option.startswith("--")]
            for option in parameter.opts:
                if re.fullmatch(r"-\w", option):
                    letters.setdefault(option, set()).update(long)
    assert {letter: len(names) for letter, names in letters.items() if len(names) > 1} == {}
    assert letters["-o"] == {"--output"}
    assert letters["-j"] == {"--jobs"}
    assert letters["-n"] == {"--dry-run"}


def test_shared_options_are_only_where_they_do_something() -> None:
    from llama_cli.cli import COMMANDS
    from tests.reference import found

    where = {
        option: {name for name in COMMANDS for p in found(name).params if option in p.opts}
        for option in ("--jobs", "--rejects", "--max-rejects", "--seed", "--report")
    }
    assert where == {
        "--jobs": {"fetch", "filter", "tokenize", "mix"},
        "--rejects": {"fetch", "filter"},
        "--max-rejects": {"filter", "tokenize", "mix", "eval", "generate"},
        "--seed": {"mix", "train", "generate"},
        "--report": {"fetch", "filter", "tokenize", "mix", "eval", "generate"},
    }


@pytest.mark.parametrize("name", ["fetch", "mix", "train", "eval"])
def test_a_dry_run_has_the_same_letter_everywhere(name: str) -> None:
    from tests.reference import found

    (option,) = (each for each in found(name).params if each.name == "dry_run")
    assert option.opts == ["-n", "--dry-run"]


@pytest.mark.parametrize("command", ["", "carbon"])
def test_help_has_a_letter(tmp_path: Path, command: str) -> None:
    short = sh(f"llama {command} -h", tmp_path)
    assert short.returncode == 0
    assert short.stdout == sh(f"llama {command} --help", tmp_path).stdout


def test_no_option_takes_a_secret() -> None:
    from llama_cli.cli import COMMANDS
    from tests.reference import found

    options = {option for name in COMMANDS for p in found(name).params for option in p.opts}
    assert options & {"--token", "--password", "--api-key"} == set()


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


# wrong use


def test_wrong_use_is_one_line_and_says_where_the_value_came_from(tmp_path: Path) -> None:
    done = sh("LLAMA_FILTER_MAX_LINE=abc llama filter", tmp_path, stdin="")
    assert done.returncode == 2
    assert done.stderr == (
        "llama filter: invalid value for '--max-line': 'abc' is not a valid integer range "
        "(LLAMA_FILTER_MAX_LINE)\n  try: llama filter --help\n"
    )
    (tmp_path / "llama.toml").write_text("[filter]\nmax-line = 0\n")
    assert "x>=1 (llama.toml)\n" in sh("llama filter", tmp_path, stdin="").stderr


def test_a_name_with_a_line_end_makes_one_line_of_message(tmp_path: Path) -> None:
    done = sh("llama filter $'no\\nfile\\e[31m'", tmp_path)
    assert done.stderr == "llama filter: no\\nfile\\x1b[31m: No such file or directory\n"


def test_a_record_nested_too_deeply_to_be_written_is_a_bad_line(tmp_path: Path) -> None:
    deep = '{"text": "t", "metadata": ' + '{"a": ' * 300 + "1" + "}" * 301
    (tmp_path / "a").write_text(f"{deep}\n{good(7)}\n")
    for jobs in (1, 2):
        done = sh(f"llama filter a -j {jobs}", tmp_path)
        assert ids(done.stdout) == [7]
        assert done.stderr.startswith("llama filter: a:1: nested over 200 deep\n")


@pytest.mark.parametrize("option", ["--rejects", "--report", "--held-out"])
def test_two_outputs_are_not_written_into_one_file(tmp_path: Path, option: str) -> None:
    write(tmp_path / "a", 3)
    done = sh(f"llama filter a -o b {option} ./b", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"llama filter: --output and {option} would both write b\n"
    over = sh(f"llama filter a {option} a", tmp_path)
    assert over.stderr == f"llama filter: {option} would replace the input a\n"
    assert ids((tmp_path / "a").read_text()) == [0, 1, 2]
    assert sh(f"llama filter a -o /dev/null {option} /dev/null", tmp_path).returncode == 0


def test_an_output_may_replace_its_input(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    assert sh("llama filter a -o a", tmp_path).returncode == 0
    assert ids((tmp_path / "a").read_text()) == [0, 1, 2]


def test_a_dash_is_stdout_for_every_output_but_never_for_two(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    done = sh("llama filter a -o b --report -", tmp_path)
    assert json.loads(done.stdout)["result"]["out"] == 3
    assert sh("llama filter a --rejects -", tmp_path).returncode == 2
    assert sh("llama filter a -o b --rejects -", tmp_path).returncode == 0
    assert not (tmp_path / "-").exists()


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    done = sh("llama filter a --report away/report.json", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "llama filter: away/report.json: No such file or directory\n"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_wrong_use(tmp_path: Path, value: str) -> None:
    for command in (
        "filter --max-mean-line",
        "generate --prompt a --temperature",
        "train --lr",
        "carbon --gpu-hours",
    ):
        done = sh(f"llama {command} {value}", tmp_path)
        assert done.returncode == 2, command
        assert f"{value} is not a finite number\n" in done.stderr, command


def test_a_seed_is_what_every_generator_takes(tmp_path: Path) -> None:
    for command in ("mix", "train", "generate"):
        assert sh(f"llama {command} --seed 4294967296", tmp_path).returncode == 2


def test_a_report_can_hold_a_name_that_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    done = sh("llama filter a -o $'b\\xff' --report report.json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["config"]["output"] == "b\ufffd"


@pytest.mark.parametrize("command", ["filter a -o b", "filter a -o b.gz", "tokenize a -o b"])
def test_an_output_that_cannot_be_written_whole_leaves_nothing(
    tmp_path: Path, command: str
) -> None:
    write(tmp_path / "a", 20_000)
    done = sh(f"unset ${{!COV*}}; ulimit -f 20; llama {command}", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(f": {command.split()[-1]}: File too large\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
