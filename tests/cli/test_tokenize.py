"""`llama tokenize` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_cli.records import Document
from llama_cli.shards.read import Shards
from llama_cli.tokenizer.bpe import Tokenizer
from tests.shell import sh

WORDS = ["one", "naïve", "  def f(x):\n", "1969", "한국", "over the lazy dog", "\t"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [
        Document(f"d{i}", " ".join(WORDS[: i % 8] * (i % 5)), "books" if i % 3 else "files")
        for i in range(300)
    ]
    data = b"".join(document.to_json() + b"\n" for document in documents)
    (tmp_path / "in.jsonl").write_bytes(data)
    return tmp_path


def test_a_document_becomes_a_line_of_ids(tmp_path):
    done = sh("""echo '{"id":"a","text":"hi","source":"books"}' | llama tokenize -q""", tmp_path)
    ids = Tokenizer.load().encode("hi", eos=True)
    assert (
        done.stdout
        == f'{{"id":"a","source":"books","tokens":{json.dumps(ids, separators=(",", ":"))}}}\n'
    )
    assert (ids[0], ids[-1], done.stderr) == (1, 2, "")


def test_the_ids_do_not_depend_on_the_number_of_processes(corpus):
    done = sh(
        "llama tokenize in.jsonl -j1 | sha256sum; llama tokenize -j3 < in.jsonl | sha256sum", corpus
    )
    one, three = done.stdout.splitlines()
    assert one == three


def test_a_name_without_a_suffix_is_a_directory_of_the_same_documents(corpus):
    done = sh(
        "llama tokenize in.jsonl -o tokens -j2 && llama tokenize in.jsonl -o t.jsonl.gz &&"
        "gzip -dc t.jsonl.gz",
        corpus,
    )
    assert done.returncode == 0, done.stderr
    shards = Shards(corpus / "tokens")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(shards.source(i), shards[i].tolist()) for i in range(len(shards))] == [
        (row["source"], row["tokens"]) for row in rows
    ]
    assert (shards.kind, shards.tokenizer_sha256) == ("documents", Tokenizer.load().sha256)
    shards.verify()


def test_the_totals_are_told_and_reported(corpus):
    done = sh("llama tokenize in.jsonl --report r.json > out.jsonl", corpus)
    result = json.loads((corpus / "r.json").read_text())["result"]
    rows = [json.loads(line) for line in (corpus / "out.jsonl").read_text().splitlines()]
    assert result["tokens"] == sum(len(row["tokens"]) for row in rows)
    texts = [json.loads(line)["text"] for line in (corpus / "in.jsonl").read_text().splitlines()]
    assert result["bytes"] == sum(len(text.encode()) for text in texts)
    assert f"{result['tokens']:,} tokens of {result['bytes']:,} bytes of text" in done.stderr


def test_no_documents_make_no_tokens(tmp_path):
    done = sh("llama tokenize < /dev/null", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 tokens of 0 bytes of text, 0.00 bytes a token" in done.stderr


def test_a_directory_of_other_things_is_not_touched(corpus):
    (corpus / "mine").mkdir()
    (corpus / "mine" / "x").write_text("x")
    done = sh("llama tokenize in.jsonl -o mine", corpus)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "llama tokenize: mine exists and holds no token shards, so it stays as it is\n"
    )


def test_a_device_is_written_as_lines(corpus):
    done = sh("llama tokenize in.jsonl -q -o /dev/null && test -c /dev/null", corpus)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_leaves_early_is_not_an_error_message(corpus):
    done = sh(
        "cat in.jsonl{,}{,}{,}{,} | llama tokenize -j2 | head -1; echo ${PIPESTATUS[1]}", corpus
    )
    assert done.stdout.splitlines()[1:] == ["141"]
    assert done.stderr == ""


def test_a_learnt_tokenizer_is_used_by_name(corpus):
    done = sh(
        "llama tokenize --fit in.jsonl -o my.model --vocab 290 && "
        "llama tokenize --tokenizer my.model in.jsonl -o tokens",
        corpus,
    )
    assert done.returncode == 0, done.stderr
    learnt = Tokenizer.load(corpus / "my.model")
    assert learnt.vocab_size == 290
    assert f"290 pieces in my.model, sha256 {learnt.sha256}" in done.stderr
    assert Shards(corpus / "tokens").tokenizer_sha256 == learnt.sha256


def test_learning_twice_gives_the_same_file(corpus):
    done = sh(
        "for name in a b; do llama tokenize --fit --vocab 290 -o $name.model < in.jsonl; done;"
        "cmp a.model b.model",
        corpus,
    )
    assert done.returncode == 0, done.stderr


def test_learning_from_a_sample_says_so(corpus):
    done = sh("llama tokenize --fit in.jsonl -o a.model --vocab 290 --fit-bytes 9000", corpus)
    assert done.returncode == 0, done.stderr
    assert "llama tokenize: learns from a 0.5 share of the lines (--fit-bytes 9000)" in done.stderr


def test_learning_needs_a_file_to_write(corpus):
    done = sh("llama tokenize --fit in.jsonl", corpus)
    assert done.returncode == 2
    assert done.stderr == (
        "llama tokenize: --fit makes a file\n  try: llama tokenize --fit -o tokenizer.model\n"
    )


def test_too_little_text_to_learn_from_is_one_line_and_the_cure(corpus):
    done = sh("llama tokenize --fit in.jsonl -o a.model", corpus)
    assert done.returncode == 1
    assert (
        "llama tokenize: too little text for 32,000 pieces\n  try: llama tokenize --fit --vocab"
        in done.stderr
    )
    assert not (corpus / "a.model").exists()


def test_a_missing_tokenizer_is_one_line_and_the_cure(corpus):
    done = sh("llama tokenize in.jsonl --tokenizer none.model", corpus)
    assert done.returncode == 1
    assert done.stderr == (
        "llama tokenize: no tokenizer at none.model\n"
        "  try: llama tokenize --fit corpus.jsonl -o none.model\n"
    )
