"""The tokenizer as transformers wants it: tokenizer.json and tokenizer_config.json.

transformers makes the former of a `.model` file itself, where protobuf is installed. The rule is
the same: every way to put a piece together from two others is a merge, in the order of the pieces.
Its class for LLaMA adds no space before a text that begins with one, as SentencePiece does, so the
general class is named. A model with rules of its own for text before it is cut has no such file.
https://github.com/huggingface/transformers, tokenization_llama.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llama_cli.tokenizer.bpe import Tokenizer

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
PROBE = "  \N{FULLWIDTH LATIN CAPITAL LETTER A}\N{LATIN SMALL LIGATURE FI}  x "
MARKS = ("<unk>", "<s>", "</s>")


def exported(tokenizer: Tokenizer, *, context: int) -> dict[str, bytes]:
    """Give the files of a tokenizer, by name; `context` is the longest sequence of its model."""
    plain = is_plain(tokenizer)
    found = {
        "tokenizer.model": tokenizer.model,
        "tokenizer_config.json": _json(_config(context, plain=plain)),
    }
    if plain:
        found["tokenizer.json"] = _json(_backend(tokenizer))
    return found


def is_plain(tokenizer: Tokenizer) -> bool:
    """Say whether it is BPE and takes text as it is, with a space before it, as LLaMA's does.

    >>> is_plain(Tokenizer.load())
    True
    """
    processor = tokenizer.processor
    scores = (processor.GetScore(number) for number in range(tokenizer.vocab_size))
    normal = SPACE + PROBE.replace(" ", SPACE)
    ranked = all(score == int(score) for score in scores)  # BPE's are ranks, unigram's logarithms
    return ranked and str(processor.Normalize(PROBE)) == normal


def _config(context: int, *, plain: bool) -> dict[str, Any]:
    unknown, begin, end = MARKS
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": begin,
        "clean_up_tokenization_spaces": False,
        "eos_token": end,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast" if plain else "LlamaTokenizer",
        "unk_token": unknown,
    }


def _backend(tokenizer: Tokenizer) -> dict[str, Any]:
    pieces = {tokenizer.processor.IdToPiece(n): n for n in range(tokenizer.vocab_size)}
    begin = {"SpecialToken": {"id": MARKS[1], "type_id": 0}}
    text: list[dict[str, Any]] = [{"Sequence": {"id": part, "type_id": 0}} for part in "AB"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(number, mark) for number, mark in enumerate(MARKS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text[0]],
            "pair": [begin, text[0], begin, text[1]],
            "special_tokens": {MARKS[1]: {"id": MARKS[1], "ids": [1], "tokens": [MARKS[1]]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": MARKS[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": pieces,
            "merges": list(_merges(pieces)),
        },
    }


def _merges(pieces: dict[str, int]) -> Iterator[list[str]]:
    for piece in pieces:
        cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        halves = [list(cut) for cut in cuts if cut[0] in pieces and cut[1] in pieces]
        yield from sorted(halves, key=lambda cut: (pieces[cut[0]], pieces[cut[1]]))


def _added(number: int, mark: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": mark, **plain, "special": True}


def _json(told: dict[str, Any]) -> bytes:
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
