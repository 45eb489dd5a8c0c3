"""Inputs and outputs as files: compression, replacement, collisions, wrong use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.lines import good, ids, write, zstd
from tests.shell import sh

PACKS = {"plain": "cat", "gzip": "gzip -c", "bz2": "bzip2 -c", "xz": "xz -c"}


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


# wrong use


def test_wrong_use_is_one_line_and_says_where_the_value_came_from(tmp_path: Path) -> None:
    done = sh("LLAMA_FILTER_MAX_LINE=abc llama filter", tmp_path, stdin="")
    assert done.returncode == 2
    assert done.stderr == (
        "llama filter: invalid value for '--max-line': 'abc' is not a whole number "
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


def test_what_is_read_beside_files_of_records_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path / "a", 3)
    for command, option in (
        ("fetch files a --rejects", "--rejects"),
        ("filter a --against a -o b --report", "--report"),
        ("eval bits_per_byte --data a --rows", "--rows"),
        ("eval compare a b --report", "--report"),
    ):
        done = sh(f"llama {command} ./a", tmp_path)
        assert done.returncode == 2, command
        assert f": {option} would replace the input a\n" in done.stderr
    assert ids((tmp_path / "a").read_text()) == [0, 1, 2]


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
