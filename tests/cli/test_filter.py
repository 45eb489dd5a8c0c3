"""`llama filter` as a user runs it."""

import json
from pathlib import Path

import pytest

from tests.shell import sh

STORY = "The keeper of the lighthouse wrote down the weather every evening before he slept. "
GERMAN = "Der Wärter des Leuchtturms schrieb jeden Abend das Wetter auf, bevor er schlief. "


def line(name: str, text: str, source: str = "files", **metadata: str) -> str:
    return json.dumps({"id": name, "text": text, "source": source, "metadata": metadata}) + "\n"


def ids(stdout: str) -> list[str]:
    return [json.loads(row)["id"] for row in stdout.splitlines()]


def run(tmp_path: Path, options: str, *lines: str) -> list[str]:
    (tmp_path / "in.jsonl").write_text("".join(lines))
    done = sh(f"llama filter in.jsonl {options}", tmp_path)
    assert done.returncode == 0, done.stderr
    return ids(done.stdout)


def test_each_source_meets_its_own_rules(tmp_path: Path) -> None:
    text = "x" * 1001
    rows = [line(source, f"{text}{source}", source) for source in ("github", "files", "books")]
    assert run(tmp_path, "", *rows) == ["files", "books"]


def test_rejected_documents_are_kept_whole_and_counted(tmp_path: Path) -> None:
    rows = [line("a", "x\n", "github"), line("b", "x\n"), line("c", "#" * 9, "github")]
    assert run(tmp_path, "--rejects dropped.jsonl --report r.json", *rows) == ["a"]
    dropped = [json.loads(row) for row in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["rejected"] for row in dropped] == [
        {"step": "duplicates", "reason": "exact"},
        {"step": "odd_lines", "reason": "few_alnum"},
    ]
    assert dropped[1]["text"] == "#" * 9
    result = json.loads((tmp_path / "r.json").read_text())["result"]
    assert result == {
        "in": 3,
        "out": 1,
        "malformed": 0,
        "rejected": {"duplicates.exact": 1, "odd_lines.few_alnum": 1},
    }


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("", ["en"]),
        ("--language de", ["de"]),
        ("--language any", ["en", "de"]),
        ("--language en --min-score 1", []),
        ("--language any --min-characters 1", ["en", "de", "short"]),
    ],
)
def test_web_pages_are_chosen_by_language_and_length(
    tmp_path: Path, options: str, kept: list[str]
) -> None:
    rows = [
        line("en", STORY * 5, "common_crawl"),
        line("de", GERMAN * 5, "common_crawl"),
        line("short", STORY, "common_crawl"),
    ]
    assert run(tmp_path, options, *rows) == kept


def test_c4_lines_and_pages_follow_the_options(tmp_path: Path) -> None:
    text = "This line has quite a few words in it.\nIt is so.\nAnd this is the second long line."
    rows = [line("a", text, "c4")]
    assert run(tmp_path, "", *rows) == []
    assert run(tmp_path, "--min-sentences 2", *rows) == ["a"]
    assert run(tmp_path, "--min-words 3", *rows) == ["a"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("", ["wide", "steep"]),
        ("--max-line 150", ["steep"]),
        ("--max-mean-line 4", ["steep"]),
        ("--min-alnum 0.05", ["wide", "steep", "rule"]),
    ],
)
def test_the_shape_of_code_follows_the_options(
    tmp_path: Path, options: str, kept: list[str]
) -> None:
    rows = [
        line("wide", "x" * 151 + "\ny" * 30, "github"),
        line("steep", "x = 1\n\n" * 30, "github"),
        line("rule", "x" + "=" * 9 + "\n", "github"),
    ]
    assert run(tmp_path, options, *rows) == kept


def test_repeated_paragraphs_of_the_web_go_over_the_whole_stream(tmp_path: Path) -> None:
    first, second = (f"{STORY * 4}Day {word}.\nAbout this site\n" for word in ("one", "two"))
    (tmp_path / "a").write_text(line("a", first, "common_crawl"))
    (tmp_path / "b").write_text(line("b", second, "common_crawl"))
    done = sh("llama filter a b", tmp_path)
    texts = [json.loads(row)["text"] for row in done.stdout.splitlines()]
    assert texts == [first, second.partition("\n")[0]]


def test_the_output_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    rows = [
        line(
            str(n), f"{STORY * 4}\nDay {chr(97 + n % 26)} of year {'i' * (n % 40)}.", "common_crawl"
        )
        for n in range(4000)
    ]
    (tmp_path / "in.jsonl").write_text("".join(rows))
    done = sh(
        "llama filter in.jsonl > 1 && llama filter -j 3 < in.jsonl > 3 && cmp 1 3 && wc -l < 3",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_documents_are_held_out_and_not_in_the_output(tmp_path: Path) -> None:
    rows = [line(str(n), f"text {n}") for n in range(1000)]
    kept = run(tmp_path, "--held-out aside.jsonl.gz --held-out-share 0.1 --report r.json", *rows)
    aside = ids(sh("gzip -dc aside.jsonl.gz", tmp_path).stdout)
    assert 60 < len(aside) < 140  # 100, four standard deviations either way
    assert sorted(kept + aside, key=int) == [str(n) for n in range(1000)]
    result = json.loads((tmp_path / "r.json").read_text())["result"]
    assert result["held_out"] == len(aside)
    assert result["out"] == len(kept)


def test_nothing_is_held_out_of_a_stream_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(line(str(n), f"text {n}") for n in range(1000)))
    done = sh("gzip -c in.jsonl | head -c 2000 | llama filter --held-out aside.jsonl", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("compressed input ends early (truncated?)\n")
    assert not (tmp_path / "aside.jsonl").exists()


def test_a_bad_line_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f"{line('a', 'x')}{{oops\n{line('b', 'y')}")
    done = sh("llama filter in.jsonl", tmp_path)
    assert ids(done.stdout) == ["a", "b"]
    assert done.stderr.startswith("llama filter: in.jsonl:2: ")


def test_what_fetch_writes_filter_reads(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "LICENSE").write_text(
        "Permission is hereby granted, free of charge, to any person obtaining a copy"
    )
    (tmp_path / "src" / "a.py").write_text("# Copyright 2020 A. Nyone\nprint(1)\n")
    done = sh("llama fetch github src | llama filter", tmp_path)
    row = json.loads(done.stdout)
    assert row["text"] == "print(1)\n"
    assert row["metadata"]["licence"] == "MIT"


def test_what_is_held_out_is_counted_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(line(str(n), f"text {n}") for n in range(3)))
    done = sh("llama filter in.jsonl --held-out all.jsonl --held-out-share 1", tmp_path)
    assert "llama filter: held out 3 documents in all.jsonl\n" in done.stderr
    assert ", 3 in, 0 out, " in done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, jobs: int) -> None:
    peaks = []
    for count in (1000, 12_000):  # documents of 4 KB
        rows = (line(str(n), f"{n} {STORY * 50}") for n in range(count))
        (tmp_path / "in.jsonl").write_text("".join(rows))
        done = sh(f"llama filter -q -j {jobs} in.jsonl -o out.jsonl --report r.json", tmp_path)
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads((tmp_path / "r.json").read_text())["run"]["peak_rss"])
    assert (tmp_path / "in.jsonl").stat().st_size > 48e6
    assert peaks[1] - peaks[0] < 16e6  # a few chunks of lines, and batches of documents


ROW = "a man walks into a bar and asks the keeper for a glass of cold water"
PART = ROW.removesuffix(" of cold water")  # 13 words


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_documents_with_text_of_a_benchmark_go_or_are_marked(tmp_path: Path, jobs: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "dev.jsonl").write_text(json.dumps({"question": ROW}) + "\n")
    rows = [line("a", STORY * 3), line("b", f'So: "{PART.upper()}!" {STORY}'), line("c", STORY)]
    options = f"--against rows -j {jobs} --rejects dropped.jsonl --report r.json"
    assert run(tmp_path, options, *rows) == ["a", "c"]
    dropped = json.loads((tmp_path / "dropped.jsonl").read_text())
    assert dropped["rejected"] == {"step": "contamination", "reason": "overlap"}
    assert dropped["metadata"]["contamination"]["rows"] == ["rows/dev.jsonl:1"]
    result = json.loads((tmp_path / "r.json").read_text())["result"]
    assert (result["rejected"], result["against"]) == (
        {"contamination.overlap": 1},
        {"rows": 1, "told": 1},
    )
    assert run(tmp_path, "--against rows --overlap mark", *rows) == ["a", "b", "c"]
    assert run(tmp_path, "--against rows --ngram 14", *rows) == ["a", "b", "c"]


def test_a_benchmark_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(line("a", STORY))
    (tmp_path / "short.jsonl").write_text('{"question": "who"}\n')
    for path, what in (("none", "no file or directory none"), ("short.jsonl", "no row of 1 is")):
        done = sh(f"llama filter in.jsonl --against {path}", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"llama filter: {what}")
