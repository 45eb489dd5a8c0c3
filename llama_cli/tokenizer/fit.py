"""Learn a vocabulary with the settings of LLaMA's own tokenizer.

LLaMA, section 2.1, names SentencePiece BPE, digits one by one, and bytes for unknown
characters; the rest of `SETTINGS` is the trainer specification inside the released model.
SentencePiece holds all text that it learns from in memory, so a corpus larger than the
budget is sampled line by line, by a hash of the line and its place: the same corpus always
gives the same sample.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

import sentencepiece
import xxhash

from llama_cli.errors import LlamaError

VOCABULARY = 32_000

SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "character_coverage": 0.99995,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "split_by_unicode_script": True,
    "split_by_whitespace": True,
    "split_by_number": True,
    "split_digits": True,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "max_sentencepiece_length": 16,
    "max_sentence_length": 4192,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
}

# SentencePiece skips longer lines than max_sentence_length bytes; these are 4,096 at most.
_LINE = 1024  # characters

# It skips lines with these as well: NUL, and the mark of an unknown piece inside its trainer.
_RESERVED = str.maketrans({"\0": None, "\u2585": None})


def sample(texts: Iterable[str], budget: int) -> tuple[list[str], float]:
    """Keep lines of `texts`, at most `budget` bytes in UTF-8, and say which share they are.

    A line is kept when its hash is under a threshold, which is halved whenever the kept
    lines outgrow the budget.

    >>> sample(["a\\nb\\n", "a"], budget=100)
    (['a', 'b', 'a'], 1.0)
    """
    kept: list[tuple[int, bytes]] = []
    size, share = 0, 1.0
    for place, line in enumerate(_lines(texts)):
        rank = xxhash.xxh3_64_intdigest(line, seed=place)
        if rank >= share * 2**64:
            continue
        kept.append((rank, line))
        size += len(line)
        while size > budget:
            share /= 2
            kept = [(rank, line) for rank, line in kept if rank < share * 2**64]
            size = sum(len(line) for _, line in kept)
    return [line.decode() for _, line in kept], share


def _lines(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        for line in text.translate(_RESERVED).split("\n"):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE].encode("utf-8", "replace")


def fit(lines: Iterable[str], vocab_size: int = VOCABULARY) -> bytes:
    """Learn `vocab_size` pieces from `lines`, and give the bytes of a `.model` file.

    Raises:
        LlamaError: the lines hold too little for so many pieces.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            shuffle_input_sentence=False,  # `sample` has drawn; the order does not matter to BPE
            num_threads=1,
            minloglevel=2,
            **SETTINGS,
        )
    except RuntimeError as error:
        raise _too_little(vocab_size, str(error)) from None
    return model.getvalue()


def _too_little(vocab_size: int, message: str) -> LlamaError:
    if "sentences_.empty()" in message:
        return LlamaError("no text to learn a vocabulary from")
    if found := re.search(r"value <= (\d+)", message):
        return LlamaError(
            f"too little text for {vocab_size:,} pieces",
            hint=f"llama tokenize --fit --vocab {found[1]}",
        )
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return LlamaError(
            f"{vocab_size:,} pieces are fewer than the bytes and characters alone",
            hint=f"llama tokenize --fit --vocab N, over {found[1]}",
        )
    return LlamaError(f"sentencepiece: {message}")
