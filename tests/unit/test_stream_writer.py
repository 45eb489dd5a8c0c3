"""Output appears only when whole."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from llama_cli.errors import UsageError
from llama_cli.stream.writer import open_output, see_output


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open_output(path) as output:
        output.write(b"a\n")
        assert not path.exists()
        assert [part.name for part in tmp_path.iterdir()] == [f".out.{os.getpid()}.part"]
    assert path.read_bytes() == b"a\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.gz"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with open_output(path) as output:
            output.write(b"half")
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_choose_the_compression(tmp_path: Path) -> None:
    for name in ("a.jsonl.zst", "a.jsonl.gz", "a.jsonl"):
        with open_output(tmp_path / name) as output:
            output.write(b"line\n")
    assert zstandard.decompress((tmp_path / "a.jsonl.zst").read_bytes(), 100) == b"line\n"
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b"line\n"
    assert (tmp_path / "a.jsonl").read_bytes() == b"line\n"


def test_gzip_holds_neither_name_nor_time(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with open_output(tmp_path / name) as output:
            output.write(b"line\n")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_compression_that_is_not_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write \.xz"), open_output(tmp_path / "a.xz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open_output(path) as output:
        output.write(b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    assert path.is_fifo()


@pytest.mark.parametrize(("terminal", "shown"), [(True, "one\n"), (False, "")])
def test_a_terminal_gets_each_record_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], terminal: bool, shown: str
) -> None:
    monkeypatch.setattr("os.isatty", lambda number: terminal)
    with open_output(None) as output:
        output.write(b"one\n")
        assert capfd.readouterr().out == shown


def test_what_could_not_be_written_later_is_seen_before(tmp_path):
    (tmp_path / "kept").write_text("as it was")
    for fine in (None, Path("-"), Path("/dev/null"), Path("/dev/stdout"), tmp_path / "kept"):
        see_output(fine)
    see_output(tmp_path / "new.zst")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "as it was"
    with pytest.raises(IsADirectoryError):
        see_output(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        see_output(tmp_path / "no" / "x")
    assert caught.value.filename == str(tmp_path / "no" / "x")
    with pytest.raises(UsageError, match=r"cannot write \.xz"):
        see_output(tmp_path / "x.xz")
