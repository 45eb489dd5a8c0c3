"""The tokenizer: LLaMA's rules hold, and every text comes back."""

from __future__ import annotations

import pickle
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.records import Document, Tokens
from llama_cli.tokenizer.bpe import EMBEDDED, Tokenizer
from llama_cli.tokenizer.documents import Encode
from llama_cli.tokenizer.fit import SETTINGS, fit
from tests.shell import SHARED

EMBEDDED_TOKENIZER = Tokenizer.load()
RELEASED = SHARED / "data" / "tokenizer" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer():
    return EMBEDDED_TOKENIZER


def test_the_embedded_tokenizer_has_32000_pieces_in_under_600_kilobytes(tokenizer):
    assert tokenizer.vocab_size == 32_000
    assert EMBEDDED.stat().st_size < 600_000
    assert tokenizer.sha256 == sha256(EMBEDDED.read_bytes()).hexdigest()


@settings(deadline=None, max_examples=50)
@given(st.text().filter(lambda text: "\u2581" not in text))
def test_any_text_comes_back(text):
    assert EMBEDDED_TOKENIZER.decode(EMBEDDED_TOKENIZER.encode(text, eos=True)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  a",
        "a  ",
        "\t\r\n",
        "\0",
        "<s>",
        "<0x0A>",
        "\ufeff",
        "🏳️‍🌈",
        "\U0010ffff",
        "def f():\n    x",
    ],
)
def test_odd_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_mark_of_a_space_comes_back_as_a_space(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\u2581b")) == "a b"


def test_half_a_surrogate_pair_becomes_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00")) == "😀"


def test_the_marks_are_1_and_2_and_only_where_asked(tokenizer):
    inner = tokenizer.encode("hello", bos=False)
    assert tokenizer.encode("hello") == [1, *inner]
    assert tokenizer.encode("hello", eos=True) == [1, *inner, 2]
    assert tokenizer.encode("", bos=False) == []


def test_marks_written_in_the_text_are_text(tokenizer):
    assert not {1, 2} & set(tokenizer.encode("<s></s>", bos=False))


def test_a_number_is_split_into_digits(tokenizer):
    assert len(tokenizer.encode("1969", bos=False)) - len(tokenizer.encode("1", bos=False)) == 3


def test_an_unknown_character_is_its_utf8_bytes(tokenizer):
    # byte pieces follow the three marks: <0x00> is 3
    assert tokenizer.encode("\U0001fae8", bos=False)[-4:] == [3 + b for b in "\U0001fae8".encode()]


@pytest.mark.parametrize("number", [-1, 32_000])
def test_an_id_outside_the_vocabulary_cannot_be_decoded(tokenizer, number):
    with pytest.raises(ValueError, match="outside the 32000"):
        tokenizer.decode([number])


def test_a_saved_and_a_pickled_tokenizer_are_the_same(tokenizer, tmp_path):
    (tmp_path / "t.model").write_bytes(tokenizer.model)
    for again in (Tokenizer.load(tmp_path / "t.model"), pickle.loads(pickle.dumps(tokenizer))):
        assert again.sha256 == tokenizer.sha256
        assert again.encode("hello") == tokenizer.encode("hello")


def test_no_tokenizer_says_how_to_make_one(tmp_path):
    with pytest.raises(NotReadyError, match="no tokenizer at") as caught:
        Tokenizer.load(tmp_path / "none.model")
    assert "--fit" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"\0", b"not a model at all"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(LlamaError, match=r"x\.model: not a sentencepiece model"):
        Tokenizer.load(tmp_path / "x.model")


def test_a_model_with_other_marks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(SETTINGS, "bos_id", -1)
    (tmp_path / "x.model").write_bytes(fit(["the quick brown fox"] * 9, 290))
    with pytest.raises(LlamaError, match=r"x\.model: its begin and end marks are not 1 and 2"):
        Tokenizer.load(tmp_path / "x.model")


def test_a_document_becomes_begin_text_end_and_its_bytes_are_counted(tokenizer):
    record, size = Encode(tokenizer)(Document("d", "naïve", "books"))
    assert record == Tokens("d", "books", tokenizer.encode("naïve", eos=True))
    assert size == 6


@pytest.mark.data
@pytest.mark.skipif(not RELEASED.exists(), reason="the released tokenizer is not here")
def test_the_released_model_gives_the_ids_that_are_known():
    released = Tokenizer.load(RELEASED)
    assert released.vocab_size == 32_000
    # a run of spaces merges last: the released scores say so
    assert released.encode("  hi", bos=False) == [259, 7251]
    # begin, "▁", then the digits one by one
    assert released.encode("12") == [1, 29871, 29896, 29906]
