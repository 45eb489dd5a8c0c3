"""Learning a vocabulary: LLaMA's settings are obeyed, and sampling is repeatable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from llama_cli.errors import LlamaError
from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.fit import SETTINGS, fit, sample

TEXT = [
    f"In {1900 + i} the quick brown fox saw {i} lazy dogs; x  = {i}\u00e9\u00df" for i in range(60)
]


@pytest.fixture(scope="module")
def learnt():
    return fit(TEXT, 330)


def test_the_same_text_gives_the_same_bytes(learnt):
    assert fit(TEXT, 330) == learnt


def test_the_vocabulary_has_the_marks_then_all_bytes(learnt):
    pieces = SentencePieceProcessor(model_proto=learnt)
    assert pieces.vocab_size() == 330
    assert [pieces.id_to_piece(i) for i in range(4)] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert pieces.id_to_piece(258) == "<0xFF>"
    assert pieces.pad_id() == -1


def test_no_piece_joins_digits_or_is_longer_than_16_characters(learnt):
    pieces = SentencePieceProcessor(model_proto=learnt)
    known = [pieces.id_to_piece(i) for i in range(259, 330)]
    assert not [p for p in known if len(p) > 1 and any(c.isdigit() for c in p)]
    assert max(map(len, known)) <= 16


def test_a_learnt_tokenizer_gives_any_text_back(learnt):
    tokenizer = Tokenizer(learnt)
    assert tokenizer.decode(tokenizer.encode("  tabs\tand 日本語\n")) == "  tabs\tand 日本語\n"


def test_the_settings_are_those_of_the_paper():
    assert SETTINGS["model_type"] == "bpe"
    assert SETTINGS["split_digits"]
    assert SETTINGS["byte_fallback"]
    assert SETTINGS["character_coverage"] == 0.99995


def test_too_little_text_says_how_many_pieces_it_allows():
    with pytest.raises(LlamaError, match="too little text for 32,000 pieces") as caught:
        fit(["hello world"])
    words = (caught.value.hint or "").split()
    assert words[:-1] == ["llama", "tokenize", "--fit", "--vocab"]
    assert len(fit(["hello world"], int(words[-1]))) > 0


def test_fewer_pieces_than_bytes_are_refused():
    with pytest.raises(LlamaError, match="fewer than the bytes"):
        fit(TEXT, 200)


def test_no_text_is_refused():
    with pytest.raises(LlamaError, match="no text to learn"):
        fit([])


def test_what_sentencepiece_cannot_take_is_left_out_and_the_rest_learnt_from():
    lines, share = sample(["a\0b\u2585c\n\n", "\ud800"], 100)
    assert (lines, share) == (["abc", "?"], 1.0)


def test_a_line_longer_than_sentencepiece_reads_is_cut():
    lines, _ = sample(["é" * 2500], 10_000)
    assert [len(line) for line in lines] == [1024, 1024, 452]


def test_a_corpus_within_the_budget_is_kept_whole():
    assert sample(["ab\ncd"], 4) == (["ab", "cd"], 1.0)


def test_a_corpus_over_the_budget_is_sampled_from_beginning_to_end():
    lines, share = sample((f"{i:06d}" for i in range(20_000)), 12_000)
    assert 1_000 < len(lines) <= 2_000
    assert share == 0.5**4
    numbers = [int(line) for line in lines]
    assert numbers == sorted(numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(10_000, rel=0.1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=20), max_size=20), st.integers(0, 200))
def test_a_sample_is_within_the_budget_and_repeatable(texts, budget):
    lines, share = sample(texts, budget)
    assert sum(len(line.encode()) for line in lines) <= budget
    assert sample(texts, budget) == (lines, share)
    everything, _ = sample(texts, 10**6)
    rest = iter(everything)
    assert all(line in rest for line in lines)  # a subsequence


def test_what_sentencepiece_says_otherwise_is_passed_on(monkeypatch):
    def fail(**_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("sentencepiece.SentencePieceTrainer.Train", fail)
    with pytest.raises(LlamaError, match="sentencepiece: out of luck"):
        fit(TEXT)
