"""Sequences: their order, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llama_cli.errors import LlamaError, TooManyRejects
from llama_cli.model.transformer import Transformer
from llama_cli.shards.write import ShardWriter
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.training.batch import Batch
from llama_cli.training.data import Sequences, apart, first_rows
from tests.unit.training import LENGTH, VOCAB, trainer, write_sequences


def starts(data: Sequences, step: int, size: int) -> list[int]:
    return data.batch(step, size).tokens[:, 0].tolist()


def test_the_order_on_disk_is_the_order_of_training(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d", 5))
    assert (data.length, len(data)) == (LENGTH, 5)
    assert starts(data, 1, 2) == [0, 7]
    assert starts(data, 2, 2) == [14, 21]


def test_past_the_last_sequence_comes_the_first(tmp_path: Path) -> None:
    assert starts(Sequences(write_sequences(tmp_path / "d", 5)), 3, 2) == [28, 0]


def test_ranks_have_the_rows_of_one_batch_whatever_their_number(tmp_path: Path) -> None:
    data = Sequences(write_sequences(tmp_path / "d", 11))
    for step in (1, 2, 3):
        whole = data.batch(step, 8).tokens
        for ranks in (1, 2, 4, 8):
            each = 8 // ranks
            parts = [data.batch(step, 8, range(r * each, (r + 1) * each)) for r in range(ranks)]
            assert torch.equal(torch.cat([part.tokens for part in parts]), whole)


def test_a_document_begins_with_its_begin_mark_or_after_an_end_mark() -> None:
    bos, eos = Tokenizer.bos, Tokenizer.eos
    both = Batch(torch.tensor([[7, eos, bos, 8, 9, eos, bos, 5], [4, 4, 4, 4, 4, 4, bos, 5]]))
    first, end = apart(both).bounds
    assert first.tolist() == [[0, 0, 2, 2, 2, 2, 6], [0, 0, 0, 0, 0, 0, 6]]
    assert end.tolist() == [[2, 2, 6, 6, 6, 6, 7], [6, 6, 6, 6, 6, 6, 7]]
    ends_only = apart(Batch(torch.tensor([[7, eos, 8, 9, eos, 6, 6]]))).bounds
    assert ends_only[0].tolist() == [[0, 0, 2, 2, 2, 5]]


def test_keeping_documents_apart_changes_neither_tokens_nor_targets() -> None:
    batch = Batch(torch.tensor([[7, 2, 1, 8]]))
    kept = apart(batch)
    assert torch.equal(kept.tokens, batch.tokens)
    assert (kept.counts, kept.counted) == (None, 3)


def documents(*texts: list[int]) -> Tensor:
    """Pack documents, each from its begin mark to its end mark, in one sequence."""
    return torch.tensor([[token for text in texts for token in (1, *text, 2)]])


def losses(model: Transformer, batch: Batch) -> Tensor:
    logits = model(batch.tokens[:, :-1], bounds=batch.bounds)
    return cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")


def test_the_loss_of_a_document_does_not_depend_on_its_neighbours() -> None:
    model = trainer().model
    model.double()
    one = documents([5, 6], [9, 8, 7], [3, 3])
    other = documents([30, 31], [9, 8, 7], [40, 41])
    middle = slice(4, 8)  # predicted from the second document's own tokens
    seen = [losses(model, apart(Batch(tokens)))[middle] for tokens in (one, other)]
    assert torch.equal(*seen)
    mixed = [losses(model, Batch(tokens))[middle] for tokens in (one, other)]
    assert not torch.allclose(*mixed)
    alone = losses(model, Batch(documents([9, 8, 7])))
    # positions are relative, up to the fp32 of the rotary table
    assert torch.allclose(alone, seen[0], rtol=0, atol=1e-6)


def test_nor_do_its_gradients() -> None:
    model = trainer().model
    model.double()
    found = []
    for first, last in (([5, 6], [3, 3]), ([30, 31], [40, 41])):
        model.zero_grad()
        losses(model, apart(Batch(documents(first, [9, 8, 7], last))))[4:8].sum().backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=0, atol=1e-12), name
    apart_grad = found[0]["tok_embeddings.weight"]
    assert not apart_grad[[3, 5, 6, 30, 31, 40, 41]].any()


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
