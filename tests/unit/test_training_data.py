"""Sequences: their order, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.shards.read import Shards
from llama_cli.shards.write import ShardWriter
from llama_cli.training.data import Sequences, first_rows, keep
from tests.unit.training import LENGTH, VOCAB, write_sequences


def starts(data: Sequences, step: int, size: int) -> list[int]:
    return [int(row[0]) for row in data.batch(step, size)]


def test_the_order_on_disk_is_the_order_of_training(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d", 5))
    assert (data.length, len(data)) == (LENGTH, 5)
    assert starts(data, 1, 2) == [0, 7]
    assert starts(data, 2, 2) == [14, 21]


def test_past_the_last_sequence_comes_the_first(tmp_path: Path) -> None:
    assert starts(Sequences(write_sequences(tmp_path / "d", 5)), 3, 2) == [28, 0]


def test_the_same_sequences_have_the_same_fingerprint(tmp_path: Path) -> None:
    one, same = (Sequences(write_sequences(tmp_path / name)).fingerprint for name in "ab")
    assert one == same
    assert one != Sequences(write_sequences(tmp_path / "c", 21)).fingerprint


def test_documents_are_refused_with_the_command_that_packs_them(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="holds documents, not sequences") as caught:
        Sequences(write_sequences(tmp_path / "d", kind="documents"))
    assert caught.value.hint == f"llama mix {tmp_path / 'd'} -o mixed"


def test_no_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="holds no sequence"):
        Sequences(write_sequences(tmp_path / "d", 0))


def lines(path: Path, *rows: object) -> str:
    path.write_text(
        "".join(json.dumps({"tokens": row, "sources": ["files"]}) + "\n" for row in rows)
    )
    return str(path)


def test_shards_of_several_lengths_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", kind="sequences", vocab_size=VOCAB) as shards:
        shards.add([1, 2, 3], "files")
        shards.add([1, 2], "files")
    with pytest.raises(LlamaError, match="sequences of 2 to 3 tokens"):
        Sequences(tmp_path / "d")


def test_a_line_with_nothing_to_predict_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"tokens": [1]}\n')
    where = str(tmp_path / "s.jsonl")
    with pytest.raises(TooManyRejects, match=r"s\.jsonl:1: a sequence has at least 2 tokens"):
        keep(where, tmp_path / "d", vocab_size=VOCAB, tokenizer_sha256=None)


def test_a_line_of_another_length_is_named(tmp_path: Path) -> None:
    where = lines(tmp_path / "s.jsonl", [1, 2, 3], [1, 2])
    with pytest.raises(TooManyRejects, match=r"s\.jsonl:2: 2 tokens, where the first has 3"):
        keep(where, tmp_path / "d", vocab_size=VOCAB, tokenizer_sha256=None)


def test_no_line_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match=r"s\.jsonl holds no sequence"):
        keep(lines(tmp_path / "s.jsonl"), tmp_path / "d", vocab_size=VOCAB, tokenizer_sha256=None)


def test_kept_lines_are_the_sequences_of_the_stream(tmp_path: Path) -> None:
    where = lines(tmp_path / "s.jsonl", [1, 2, 3], [4, 5, 49])
    keep(where, tmp_path / "d", vocab_size=VOCAB, tokenizer_sha256="ab")
    data = Sequences(tmp_path / "d")
    assert data.batch(1, 2).tolist() == [[1, 2, 3], [4, 5, 49]]
    assert (data.tokenizer_sha256, Shards(tmp_path / "d").source(1)) == ("ab", "files")


def test_a_token_outside_the_vocabulary_is_named_by_file_and_line(tmp_path: Path) -> None:
    where = lines(tmp_path / "s.jsonl", [1, 2, 3], [4, 5, 50])
    with pytest.raises(TooManyRejects, match=r"s\.jsonl:2: token 50 is outside the 50 known"):
        keep(where, tmp_path / "d", vocab_size=VOCAB, tokenizer_sha256=None)
    assert not (tmp_path / "d").exists()


def test_a_foreign_token_in_shards_is_one_line(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d"))
    data.vocab_size = 9
    with pytest.raises(LlamaError, match="is not in the vocabulary of 9"):
        data.batch(2, 2)


@pytest.mark.parametrize("kind", ["shards", "lines"])
def test_validation_takes_the_first_rows_of_either_form(tmp_path: Path, kind: str) -> None:
    rows = [[start * 7 + n for n in range(LENGTH + 1)] for start in range(3)]
    where = (
        lines(tmp_path / "s.jsonl", *rows)
        if kind == "lines"
        else str(write_sequences(tmp_path / "d", 3))
    )
    assert first_rows(where, 2, length=LENGTH, vocab_size=VOCAB).tolist() == rows[:2]


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 2], "a sequence of 2 tokens, where training has 3"), ([1, 2, 50], "token 50 is not in")],
)
def test_validation_that_does_not_fit_is_refused(
    tmp_path: Path, row: list[int], message: str
) -> None:
    with pytest.raises(LlamaError, match=message):
        first_rows(lines(tmp_path / "s.jsonl", row), 2, length=2, vocab_size=VOCAB)


def test_empty_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlamaError, match="holds no sequence"):
        first_rows(lines(tmp_path / "s.jsonl"), 2, length=2, vocab_size=VOCAB)


def test_a_line_that_is_no_sequence_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text('{"tokens": [1, 2, 3]}\n{"text": "x"}\n')
    with pytest.raises(TooManyRejects, match=r"s\.jsonl:2: no field 'tokens'"):
        first_rows(str(tmp_path / "s.jsonl"), 2, length=2, vocab_size=VOCAB)
