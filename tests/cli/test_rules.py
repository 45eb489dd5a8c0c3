"""The rules of a good Unix tool, each as a real process under bash -o pipefail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.lines import good, ids, write
from tests.shell import LLAMA, ROOT, sh

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
        "--jobs": {"fetch", "filter", "tokenize", "mix", "eval"},
        "--rejects": {"fetch", "filter"},
        "--max-rejects": {"filter", "tokenize", "mix", "eval", "generate"},
        "--seed": {"mix", "train", "generate", "eval"},
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
