"""What transformers makes of a tokenizer of ours, beside what we make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llama_cli.tokenizer.bpe import Tokenizer
from llama_cli.tokenizer.exported import exported, is_plain
from llama_cli.tokenizer.fit import fit
from tests.shell import ROOT

CONFIG = '{"model_type": "llama"}'
TEXTS = [
    "",
    " ",
    "  two spaces",
    "In 1969, 한국!",
    "a\n\n\tb",
    " x ",
    "é̂ü 🦙",
    "\N{LATIN SMALL LIGATURE FI}",
]


def theirs(directory: Path, tokenizer: Tokenizer) -> AutoTokenizer:
    (directory / "config.json").write_text(CONFIG)
    for name, data in exported(tokenizer, context=256).items():
        (directory / name).write_bytes(data)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, AutoTokenizer]:
    tokenizer = Tokenizer.load()
    return tokenizer, theirs(tmp_path_factory.mktemp("tokenizer"), tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_has_the_same_ids_and_the_same_text(
    pair: tuple[Tokenizer, AutoTokenizer], text: str
) -> None:
    ours, other = pair
    ids = ours.encode(text)
    assert other(text)["input_ids"] == ids
    assert other.decode(ids, skip_special_tokens=True) == ours.decode(ids)


def test_transformers_has_the_same_ids_of_every_line_of_prose_and_code(
    pair: tuple[Tokenizer, AutoTokenizer],
) -> None:
    ours, other = pair
    paths = (ROOT / "README.md", ROOT / "llama_cli" / "config.py", ROOT / "CHANGELOG.md")
    lines = [line for path in paths for line in path.read_text().splitlines()]
    assert len(lines) > 200
    assert [other(line)["input_ids"] for line in lines] == [ours.encode(line) for line in lines]


def test_transformers_knows_the_marks_and_the_context(
    pair: tuple[Tokenizer, AutoTokenizer],
) -> None:
    other = pair[1]
    assert (other.bos_token_id, other.eos_token_id, other.unk_token_id) == (1, 2, 0)
    assert (other.model_max_length, len(other)) == (256, 32_000)


def test_a_tokenizer_that_rewrites_text_is_left_to_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        __import__("llama_cli.tokenizer.fit", fromlist=["SETTINGS"]).SETTINGS,
        "normalization_rule_name",
        "nmt_nfkc",
    )
    odd = Tokenizer(fit(["the cat opens the table and the garden"] * 9, 300))
    assert not is_plain(odd)
    assert exported(odd, context=8).keys() == {"tokenizer.model", "tokenizer_config.json"}
