"""Shards that are read while they are written."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from llama_cli.errors import LlamaError
from llama_cli.shards.grow import Differs, GrowingReader, GrowingWriter, Growth, growth_for
from llama_cli.shards.read import Shards

WIDTH, VOCAB = 5, 50


def row(number: int) -> np.ndarray:
    return (number * 7 + np.arange(WIDTH)) % VOCAB


def writer(directory: Path, *, in_shard: int = 3, width: int = WIDTH) -> GrowingWriter:
    directory.mkdir(exist_ok=True)
    found = GrowingWriter(directory, growth_for(width, VOCAB, "ab", max_bytes=in_shard * 2 * width))
    assert found.growth.in_shard == in_shard
    return found


def write(directory: Path, numbers: range, *, end: bool = False) -> None:
    with closing(writer(directory)) as found:
        for number in numbers:
            found.add(row(number), "files")
        if end:
            found.end()
        else:
            found.publish()


def rows(directory: Path) -> list[list[int]]:
    reader = GrowingReader(directory)
    return [reader.row(number).tolist() for number in range(reader.growth.sequences)]


def test_sequences_are_seen_once_they_are_counted(tmp_path: Path) -> None:
    found = writer(tmp_path / "d")
    found.add(row(0), "files")
    with pytest.raises(LlamaError, match="holds no sequence"):
        GrowingReader(tmp_path / "d")
    found.publish()
    reader = GrowingReader(tmp_path / "d")
    found.add(row(1), "files")
    found.publish()
    assert (reader.growth.sequences, reader.refresh().sequences) == (1, 2)
    assert reader.row(1).tolist() == row(1).tolist()
    found.close()


def test_at_the_end_it_is_a_directory_of_shards(tmp_path: Path) -> None:
    write(tmp_path / "d", range(7), end=True)
    shards = Shards(tmp_path / "d")
    shards.verify()
    assert [shards[number].tolist() for number in range(7)] == rows(tmp_path / "d")
    assert (shards.kind, shards.tokenizer_sha256, shards.source(6)) == ("sequences", "ab", "files")
    assert sorted(path.name for path in (tmp_path / "d").glob("*.bin"))[-1] == "tokens-00002.bin"
    assert Growth.read(tmp_path / "d").ended


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 6, 7])
def test_the_same_stream_again_goes_on_behind_what_is_kept(tmp_path: Path, kept: int) -> None:
    write(tmp_path / "d", range(kept))
    write(tmp_path / "d", range(8), end=True)
    Shards(tmp_path / "d").verify()
    assert rows(tmp_path / "d") == [row(number).tolist() for number in range(8)]


def test_what_was_written_but_not_counted_is_written_again(tmp_path: Path) -> None:
    write(tmp_path / "d", range(2))
    with (tmp_path / "d" / "tokens-00000.bin").open("ab") as file:
        file.write(b"half a sequence")
    write(tmp_path / "d", range(3), end=True)
    Shards(tmp_path / "d").verify()
    assert len(rows(tmp_path / "d")) == 3


@pytest.mark.parametrize("other", [0, 2, 4])
def test_another_sequence_in_its_place_is_noticed(tmp_path: Path, other: int) -> None:
    write(tmp_path / "d", range(5))
    found = writer(tmp_path / "d")
    for number in range(other):
        found.add(row(number), "files")
    with pytest.raises(Differs, match=f"sequence {other + 1} is another"):
        found.add(row(other) + 1, "files")
    found.close()
    assert rows(tmp_path / "d") == [row(number).tolist() for number in range(5)]


def test_a_stream_that_ends_before_what_is_kept_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "d", range(5))
    with pytest.raises(Differs, match="it ends after 4 of 5 sequences"):
        write(tmp_path / "d", range(4), end=True)


def test_an_end_may_be_taken_back(tmp_path: Path) -> None:
    write(tmp_path / "d", range(4), end=True)
    write(tmp_path / "d", range(5))
    assert not (tmp_path / "d" / "manifest.jsonl").exists()
    assert not Growth.read(tmp_path / "d").ended
    write(tmp_path / "d", range(5), end=True)
    Shards(tmp_path / "d").verify()


def test_sequences_of_another_width_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "d", range(2))
    with pytest.raises(Differs, match="6 tokens of 50"):
        writer(tmp_path / "d", width=6)


def test_a_file_cut_short_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "d", range(2))
    os.truncate(tmp_path / "d" / "tokens-00000.bin", 15)
    with pytest.raises(LlamaError, match=r"tokens-00000\.bin: cut short"):
        GrowingReader(tmp_path / "d").row(1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_a_damaged_count_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "growing.json").write_text(text)
    with pytest.raises(LlamaError, match=r"growing\.json: damaged"):
        Growth.read(tmp_path)
