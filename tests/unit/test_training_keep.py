"""Streams: kept by a process of their own, and read by every rank while they come."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.shards.grow import GrowingWriter, Growth, growth_for
from llama_cli.shards.read import Shards
from llama_cli.training import data as reading
from llama_cli.training.data import Sequences, Starved
from llama_cli.training.data import Stream as Read
from llama_cli.training.keep import Stream, failure, keep, keeping
from tests.unit.training import VOCAB, write_sequences


def text(*rows: list[int]) -> str:
    return "".join(json.dumps({"tokens": row, "sources": ["files"]}) + "\n" for row in rows)


def row(number: int) -> list[int]:
    return [number % VOCAB, 2, 3]


def lines(path: Path, *rows: list[int]) -> str:
    path.write_text(text(*rows))
    return str(path)


def stream(tmp_path: Path, where: str, **changes: Any) -> Stream:
    directory = tmp_path / "run" / "data"
    directory.mkdir(parents=True, exist_ok=True)
    return Stream(where, str(directory), VOCAB, "ab", **changes)


def kept(tmp_path: Path) -> Path:
    return tmp_path / "run" / "data"


def numbers(found: Read, step: int, size: int, *rows: range) -> list[int]:
    return found.batch(step, size, *rows).tokens[:, 0].tolist()


def test_what_is_kept_are_the_sequences_of_the_stream(tmp_path: Path) -> None:
    keep(stream(tmp_path, lines(tmp_path / "s", [1, 2, 3], [4, 5, 49])))
    found = Read(kept(tmp_path))
    assert found.batch(1, 2).tokens.tolist() == [[1, 2, 3], [4, 5, 49]]
    assert (found.length, found.vocab_size, found.tokenizer_sha256) == (2, VOCAB, "ab")
    assert (found.ended, len(found), found.whole()) == (True, 2, 2)
    assert Sequences(kept(tmp_path)).batch(1, 2).tokens.tolist() == [[1, 2, 3], [4, 5, 49]]
    assert Shards(kept(tmp_path)).source(1) == "files"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1]], r"s:1: a sequence has at least 2 tokens"),
        ([[1, 2, 3], [1, 2]], r"s:2: 2 tokens, where the first has 3"),
        ([[1, 2, 3], [4, 5, 50]], r"s:2: token 50 is outside the 50 known"),
    ],
)
def test_a_line_that_is_no_such_sequence_is_named(
    tmp_path: Path, rows: list[list[int]], message: str
) -> None:
    with pytest.raises(TooManyRejects, match=message):
        keep(stream(tmp_path, lines(tmp_path / "s", *rows)))


def test_no_line_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="s holds no sequence"):
        keep(stream(tmp_path, lines(tmp_path / "s")))


def test_ranks_read_their_rows_of_the_same_batch(tmp_path: Path) -> None:
    keep(stream(tmp_path, lines(tmp_path / "s", *map(row, range(9)))))
    found = Read(kept(tmp_path))
    whole = numbers(found, 2, 4)
    assert whole == [4, 5, 6, 7]
    assert numbers(found, 2, 4, range(2)) + numbers(found, 2, 4, range(2, 4)) == whole


def test_past_the_end_comes_the_first_with_a_word(tmp_path: Path) -> None:
    keep(stream(tmp_path, lines(tmp_path / "s", *map(row, range(3)))))
    said: list[str] = []
    found = Read(kept(tmp_path), say=said.append)
    assert numbers(found, 1, 2) == [0, 1]
    assert said == []
    assert numbers(found, 2, 2) == [2, 0]
    assert numbers(found, 3, 2) == [1, 2]
    assert said == ["the stream ended after 3 sequences: they are read again from the first"]


def half_way(tmp_path: Path, count: int) -> GrowingWriter:
    """Keep the first `count` sequences of a stream, by hand, in this process."""
    kept(tmp_path).mkdir(parents=True, exist_ok=True)
    writer = GrowingWriter(kept(tmp_path), growth_for(3, VOCAB, "ab"))
    for number in range(count):
        writer.add(np.array(row(number)), "")
    writer.publish()
    return writer


def test_a_step_waits_until_the_rows_of_all_ranks_have_come(tmp_path: Path) -> None:
    writer, got = half_way(tmp_path, 1), []
    found = Read(kept(tmp_path), watch=False)
    thread = threading.Thread(target=lambda: got.append(numbers(found, 1, 2, range(1))))
    thread.start()
    time.sleep(0.1)
    assert got == []  # its own row is there, the other rank's is not
    writer.add(np.array(row(1)), "")
    writer.publish()
    thread.join(5)
    writer.close()
    assert got == [[0]]


def test_a_stream_without_a_keeper_starves_the_step_that_needs_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LOOK", 0.0)
    half_way(tmp_path, 3).close()
    first, other = Read(kept(tmp_path)), Read(kept(tmp_path), watch=False)
    assert numbers(first, 1, 3) == [0, 1, 2]
    for found in (first, other):  # the one that watches tells the other
        with pytest.raises(Starved, match=r"the stream into .*data has stopped") as caught:
            found.batch(2, 3)
        assert caught.value.hint == "the same command again"


def pipe(tmp_path: Path, name: str = "fifo") -> str:
    os.mkfifo(tmp_path / name)
    return str(tmp_path / name)


def test_a_stream_is_read_while_it_comes(tmp_path: Path) -> None:
    where = pipe(tmp_path)
    with keeping(stream(tmp_path, where)) as keeper, open(where, "w") as out:
        print(text(*map(row, range(5))), end="", file=out, flush=True)
        keeper.begun()
        found = Read(kept(tmp_path))
        assert numbers(found, 1, 5) == [0, 1, 2, 3, 4]
        assert not found.ended
        print(text(row(5)), end="", file=out, flush=True)
        out.close()
        assert found.whole() == 6


def test_the_same_stream_again_goes_on(tmp_path: Path) -> None:
    for count in (100, 200):
        where = pipe(tmp_path, f"fifo{count}")
        with keeping(stream(tmp_path, where)) as keeper, open(where, "w") as out:
            print(text(*map(row, range(count))), end="", file=out, flush=True)
            keeper.begun()
            assert numbers(Read(kept(tmp_path)), 1, count) == [n % VOCAB for n in range(count)]
    assert Growth.read(kept(tmp_path)).sequences == 200  # type: ignore[union-attr]


def test_another_stream_is_refused_before_training(tmp_path: Path) -> None:
    keep(stream(tmp_path, lines(tmp_path / "s", *map(row, range(3)))))
    other = lines(tmp_path / "t", row(0), row(7), row(2))
    with (
        pytest.raises(LlamaError, match=r"run holds a run with other data: sequence 2 is another"),
        keeping(stream(tmp_path, other)) as keeper,
    ):
        keeper.begun()


def test_an_end_counts_once_training_has_gone_round_it(tmp_path: Path) -> None:
    keep(stream(tmp_path, lines(tmp_path / "s", *map(row, range(3)))))
    longer = lines(tmp_path / "t", *map(row, range(5)))
    with pytest.raises(LlamaError, match="it goes on after 3 sequences"):
        keep(stream(tmp_path, longer, used=4))
    keep(stream(tmp_path, longer, used=3))
    assert Read(kept(tmp_path)).whole() == 5


def test_shards_that_no_stream_made_are_not_written_over(tmp_path: Path) -> None:
    write_sequences(kept(tmp_path))
    with (
        pytest.raises(LlamaError, match="run holds a run with other data"),
        keeping(stream(tmp_path, "-")),
    ):
        pass
    Shards(kept(tmp_path)).verify()


def test_what_went_wrong_later_is_told_to_the_step_that_starves(tmp_path: Path) -> None:
    where = pipe(tmp_path)
    with keeping(stream(tmp_path, where)) as keeper, open(where, "w") as out:
        print(text(row(0)), end="", file=out, flush=True)
        keeper.begun()
        print("{oops", file=out, flush=True)
        out.close()
        found = Read(kept(tmp_path))
        with pytest.raises(Starved, match=r"fifo:2: not JSON") as caught:
            found.batch(1, 2)
        assert caught.value.exit_code == TooManyRejects.exit_code
        assert isinstance(failure(kept(tmp_path)), TooManyRejects)
        (kept(tmp_path) / "failed.json").unlink()  # else it is raised here too


def test_a_stream_that_went_wrong_after_all_that_was_needed_is_told_at_the_end(
    tmp_path: Path,
) -> None:
    def train() -> None:
        where = pipe(tmp_path)
        with keeping(stream(tmp_path, where)) as keeper, open(where, "w") as out:
            print(text(row(0)), end="", file=out, flush=True)
            keeper.begun()
            print("{oops", file=out, flush=True)
            out.close()
            keeper.process.wait(10)

    with pytest.raises(TooManyRejects, match=r"fifo:2: not JSON"):
        train()


def test_a_keeper_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    where = pipe(tmp_path)
    reader, writer = os.pipe()
    if not (child := os.fork()):
        with keeping(stream(tmp_path, where)) as keeper:
            os.write(writer, str(keeper.process.pid).encode())
            time.sleep(60)
        os._exit(0)
    keeper_id = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(keeper_id):
        time.sleep(0.02)
    assert not alive(keeper_id)
    os.close(reader)
    os.close(writer)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
