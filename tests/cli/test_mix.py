"""`llama mix` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_cli.records import Document, Tokens
from llama_cli.shards.read import Shards
from llama_cli.tokenizer.bpe import Tokenizer
from tests.shell import sh

MIX = "llama mix --length 16"


def lines(path: Path, documents: list[tuple[str, list[int]]]) -> None:
    records = [Tokens(f"d{i}", source, ids) for i, (source, ids) in enumerate(documents)]
    path.write_bytes(b"".join(record.to_json() + b"\n" for record in records))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    lines(
        tmp_path / "in.jsonl",
        [
            ("books" if i % 3 else "wikipedia", [1, *range(100, 100 + i % 40), 2])
            for i in range(200)
        ],
    )
    return tmp_path


def sequences(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_sequence_has_the_length_and_one_more_and_overlaps_by_one(tmp_path):
    lines(tmp_path / "in.jsonl", [("books", [*range(1, 34)])])
    done = sh(f"{MIX} in.jsonl -q", tmp_path)
    first, second = sorted(sequences(done.stdout), key=lambda row: row["tokens"])
    assert first == {"tokens": [*range(1, 18)], "sources": ["books"]}
    assert second == {"tokens": [*range(17, 34)], "sources": ["books"]}
    assert done.stderr == ""


def test_the_default_length_is_2049_tokens(tmp_path):
    lines(tmp_path / "in.jsonl", [("books", [5] * 2049)])
    done = sh("llama mix in.jsonl", tmp_path)
    assert [len(row["tokens"]) for row in sequences(done.stdout)] == [2049]


def test_pipes_files_and_shards_give_the_same_sequences(tmp_path):
    documents = [
        Document(f"d{i}", f"text {i} " * (i % 9), "books" if i % 2 else "arxiv") for i in range(150)
    ]
    (tmp_path / "docs.jsonl").write_bytes(b"".join(d.to_json() + b"\n" for d in documents))
    done = sh(
        f"""set -e
        llama tokenize docs.jsonl | {MIX} -o piped
        llama tokenize docs.jsonl -o tokens.jsonl.zst; {MIX} tokens.jsonl.zst -j2 -o filed
        llama tokenize docs.jsonl -o tokens; {MIX} tokens -o sharded
        {MIX} tokens > lines.jsonl
        for name in filed sharded; do diff -r piped $name; done""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    shards = Shards(tmp_path / "piped")
    rows = sequences((tmp_path / "lines.jsonl").read_text())
    assert [(shards[i].tolist(), [shards.source(i)]) for i in range(len(shards))] == [
        (row["tokens"], row["sources"]) for row in rows
    ]
    assert (shards.kind, shards.vocab_size) == ("sequences", 32_000)
    assert shards.tokenizer_sha256 == Tokenizer.load().sha256
    assert shards.header.recipe == {
        "seed": 0,
        "length": 16,
        "weights": {"books": 4.5 / 7, "arxiv": 2.5 / 7},
    }


def test_nothing_but_the_mixture_stays(work):
    sh(f"{MIX} in.jsonl -o mixed", work)
    assert sorted(p.name for p in work.iterdir()) == ["in.jsonl", "mixed"]


def test_a_mixture_may_go_where_no_directory_is_yet(work):
    done = sh(f"{MIX} in.jsonl -o a/b/mixed", work)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (work / "a" / "b").iterdir()] == ["mixed"]


def test_a_source_that_the_input_lacks_is_one_line(work):
    done = sh(f"{MIX} in.jsonl -o mixed", work)
    assert done.stderr.splitlines()[0] == (
        "llama mix: no common_crawl, c4, github, arxiv, stack_exchange in the input;"
        " the rest is renormalised"
    )


def test_a_source_outside_table_1_is_mixed_by_its_size(tmp_path):
    lines(tmp_path / "in.jsonl", [("files", [7] * 50), ("mail", [8] * 50)])
    done = sh(f"{MIX} in.jsonl", tmp_path)
    assert "weighs files, mail by its share of the tokens" in done.stderr
    assert [row["sources"][0] for row in sequences(done.stdout)][:4] == ["files", "mail"] * 2


def test_weights_say_how_often_each_source_comes(work):
    done = sh(f"{MIX} in.jsonl --weights wikipedia=3,books=1 --tokens 640 -q", work)
    names = [row["sources"][0] for row in sequences(done.stdout)]
    assert (len(names), names.count("wikipedia")) == (40, 30)


def test_the_table_comes_at_the_end_and_in_the_report(work):
    done = sh(f"{MIX} in.jsonl --weights books=1 --tokens 320 --report r.json -o mixed", work)
    said = [line.removeprefix("llama mix: ").split() for line in done.stderr.splitlines()]
    result = json.loads((work / "r.json").read_text())["result"]
    (share,) = result["sources"]
    assert [
        "books",
        "100.00%",
        f"{share['tokens']:,}",
        "320",
        f"{320 / share['tokens']:.2f}",
    ] in said
    assert ["leaves", "out", "wikipedia,", "which", "has", "no", "weight"] in said
    assert (result["sequences"], result["tokens"], result["in"], result["out"]) == (
        20,
        320,
        200,
        20,
    )


def test_repeating_past_four_epochs_is_warned_of(work):
    done = sh(f"{MIX} in.jsonl --weights books=1 --tokens 100000 -o mixed", work)
    assert "llama mix: repeats books " in done.stderr
    assert "Muennighoff et al. 2023" in done.stderr


def test_a_dry_run_prints_the_table_and_makes_nothing(work):
    done = sh(f"{MIX} in.jsonl --dry-run -o mixed", work)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "source",
        "wikipedia",
        "books",
    ]
    assert [p.name for p in work.iterdir()] == ["in.jsonl"]


def test_a_seed_gives_one_order_and_another_seed_another(work):
    done = sh(f"for seed in 0 0 1; do {MIX} in.jsonl -q --seed $seed | sha256sum; done", work)
    first, again, other = done.stdout.splitlines()
    assert first == again
    assert first != other


def test_too_little_for_a_sequence_is_one_line_and_the_cure(tmp_path):
    lines(tmp_path / "in.jsonl", [("books", [1, 2, 3])])
    done = sh("llama mix in.jsonl -o mixed", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "llama mix: 3 tokens are too few for one sequence of 2,049",
        "  try: llama mix --length 2",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_no_tokens_at_all_is_one_line(tmp_path):
    done = sh("llama mix < /dev/null", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "llama mix: nothing to mix: no tokens of a source with a weight\n"


def test_a_bad_line_ends_with_3_unless_allowed(work):
    sh("echo '{oops' >> in.jsonl", work)
    done = sh(f"{MIX} in.jsonl -o mixed", work)
    assert done.returncode == 3
    assert done.stderr.startswith("llama mix: in.jsonl:201: not JSON")
    assert not (work / "mixed").exists()
    assert sh(f"{MIX} in.jsonl -o mixed --max-rejects 1", work).returncode == 0


def test_an_id_outside_the_tokenizer_is_named_by_its_line(tmp_path):
    lines(tmp_path / "in.jsonl", [("books", [1, 31_999]), ("books", [1, 32_000])])
    done = sh("llama mix in.jsonl", tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "llama mix: in.jsonl:2: token 32000 is outside the 32000 of the tokenizer\n"
    )


def test_shards_of_another_tokenizer_than_named_are_refused(tmp_path):
    done = sh(
        """set -e
        for i in 1 2 3; do echo '{"text":"some words to learn from, twice"}'; done > d.jsonl
        llama tokenize d.jsonl -o tokens -q; llama tokenize --fit d.jsonl -o my.model --vocab 280 -q
        llama mix tokens --tokenizer my.model""",
        tmp_path,
    )
    assert done.returncode == 1
    assert done.stderr == "llama mix: tokens was not made by this tokenizer\n"


def test_shards_and_files_do_not_go_together(work):
    done = sh(f"{MIX} in.jsonl . ", work)
    assert done.returncode == 2
    assert done.stderr == (
        "llama mix: shard directories and files do not go together in one mixture\n"
    )


@pytest.mark.parametrize("weights", ["books", "books=x", "books=-1", "books=nan", "books=inf"])
def test_weights_that_are_no_numbers_are_a_usage_error(work, weights):
    done = sh(f"{MIX} in.jsonl --weights {weights}", work)
    assert done.returncode == 2
    assert "--weights" in done.stderr


def test_a_mixture_is_not_written_over_other_things(work):
    done = sh(f"{MIX} in.jsonl -o .", work)
    assert done.returncode == 1
    assert "holds no token shards" in done.stderr


def test_memory_does_not_grow_with_the_tokens(tmp_path):
    ids = ",".join(map(str, range(1, 20_001)))
    done = sh(
        f"""line='{{"id":"d","source":"books","tokens":[{ids}]}}'
        for i in $(seq 20); do echo "$line"; done > part
        for i in $(seq 20); do cat part; done | llama mix -o mixed --report r.json -q
        for i in $(seq 2); do cat part; done | llama mix -o mixed --report s.json -q""",
        tmp_path,
        env={"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    large, small = (
        json.loads((tmp_path / name).read_text())["run"]["peak_rss"]
        for name in ("r.json", "s.json")
    )
    assert (tmp_path / "part").stat().st_size * 18 > 30e6  # bytes more went in
    assert large - small < 30e6  # of which 14e6 are pages mapped from disk
