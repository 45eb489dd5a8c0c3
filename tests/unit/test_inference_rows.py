"""Rows: the text of what grows, and places in a batch that are given up."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.inference.backend import take_over
from llama_cli.inference.batch import Batch
from llama_cli.inference.engine import Engine, Request, Settings
from llama_cli.inference.rows import Row, rows_of, whole_text
from llama_cli.records import Prompt
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BYTES = [id for id in range(TOKENIZER.vocab_size) if TOKENIZER.processor.IsByte(id)]
SPACE = TOKENIZER.processor.PieceToId("\u2581")
CHARACTER = [TOKENIZER.processor.PieceToId(f"<0x{byte:02X}>") for byte in "😀".encode()]

TOKENS = st.one_of(
    st.integers(0, TOKENIZER.vocab_size - 1).map(lambda id: [id]),
    st.sampled_from(BYTES).map(lambda id: [id]),
    st.sampled_from([[SPACE], [1], [0], CHARACTER]),
)


def row_of(prompt: str, **asked: object) -> Row:
    settings = Settings(**{"max_tokens": 1000, **asked})
    return next(rows_of(Request(Prompt("0", prompt), settings), TOKENIZER, 2000, None))


@given(st.sampled_from(["", "The cat", "x é", " ", "\n"]), st.lists(TOKENS, max_size=30))
def test_text_that_is_decoded_as_it_grows_is_that_of_the_whole(
    prompt: str, tokens: list[list[int]]
) -> None:
    row = row_of(prompt)
    before = len(TOKENIZER.decode(row.ids))
    for new in tokens:
        row.ids += new
        assert whole_text(row, TOKENIZER) == TOKENIZER.decode(row.ids)[before:]


def test_only_the_end_of_a_long_text_is_decoded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    row, decoded = row_of("The cat"), []
    row.ids += [40] * 500
    whole_text(row, TOKENIZER)
    decode = TOKENIZER.decode
    monkeypatch.setattr(TOKENIZER, "decode", lambda ids: decoded.append(len(ids)) or decode(ids))
    for token in [50, *CHARACTER, 50]:
        row.ids.append(token)
        whole_text(row, TOKENIZER)
    assert max(decoded) < 8


def test_a_prompt_given_as_ids_is_taken_as_it_is() -> None:
    ids = (5, 1, 7)
    request = Request(Prompt("0", "other"), Settings(max_tokens=2), ids)
    (row,) = rows_of(request, TOKENIZER, 64, None)
    assert (row.ids, row.start, row.end) == ([5, 1, 7], 3, 5)


def test_rows_that_are_dropped_leave_the_others_as_they_are() -> None:
    engine = Engine(take_over(tiny_model()), TOKENIZER)
    texts = ["The cat", "The river opens", "A", "The table"]
    batch = Batch(engine.network, TOKENIZER, size=2)
    rows = [row_of(text, max_tokens=12) for text in texts]
    waiting = deque(rows)
    for _ in range(4):
        batch.step(waiting)
    batch.drop([rows[0]])
    assert len(batch.rows) == 1
    batch.step(waiting)
    assert [row.slot >= 0 for row in rows] == [True, True, True, False]  # the place is taken
    while batch.rows or waiting:
        batch.step(waiting)
    settings = Settings(max_tokens=12)
    alone = [next(engine.generate([Prompt("0", text)], settings)).tokens for text in texts]
    assert len(rows[0].ids) == rows[0].start + 4
    assert [row.ids[row.start :] for row in rows[1:]] == alone[1:]
