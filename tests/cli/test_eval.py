"""`llama eval` as a process, with a tiny model and benchmark files made here."""

import json
from pathlib import Path

import pytest

from tests.shell import on_terminal, sh
from tests.tiny import tiny_checkpoint

TABLE = "piqa           accuracy /characters"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with a model, PIQA in its official format, and held-out documents."""
    directory = tmp_path_factory.mktemp("eval")
    tiny_checkpoint(directory / "model")
    (directory / "data" / "piqa").mkdir(parents=True)
    rows = [{"goal": "cat", "sol1": f"opens {n}", "sol2": "holds the table"} for n in range(4)]
    (directory / "data/piqa/valid.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (directory / "data/piqa/valid-labels.lst").write_text("0\n1\n1\n0\n")
    documents = [{"id": str(n), "text": "The cat opens the table. " * n} for n in range(1, 9)]
    (directory / "held.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    return directory


def test_scores_are_records_and_the_table_is_for_people(here):
    done = sh(
        "llama eval piqa bits_per_byte --model model --data data --data held.jsonl "
        "--rows rows.jsonl --report report.json",
        here,
    )
    piqa, bits = map(json.loads, done.stdout.splitlines())
    rows = [json.loads(line) for line in (here / "rows.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["piqa"] * 4 + ["bits_per_byte"] * 8
    assert piqa["value"] == 25 * sum(row["correct"] for row in rows[:4])
    assert piqa["reported"] == {"7B": 79.8, "13B": 80.1, "33B": 82.3, "65B": 82.8}
    held = rows[4:]
    assert bits["value"] == pytest.approx(
        sum(row["bits"] for row in held) / sum(row["utf8_bytes"] for row in held)
    )
    assert TABLE in done.stderr
    assert "79.8" in done.stderr
    result = json.loads((here / "report.json").read_text())["result"]
    assert (result["in"], result["out"], result["scores"]["piqa"]) == (12, 2, piqa["value"])


def test_a_dry_run_shows_what_the_model_would_see_and_needs_none(here):
    done = sh("llama eval piqa bits_per_byte --data data --limit 1 --dry-run < held.jsonl", here)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {
        "task": "piqa",
        "id": "0",
        "prompt": "Question: cat\nAnswer:",
        "choices": [" opens 0", " holds the table"],
        "gold": 0,
    }
    assert (second["prompt"], second["choices"]) == ("", ["The cat opens the table. "])


def test_the_tasks_are_listed_with_the_papers_figures(tmp_path):
    done = sh("llama eval --list", tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        "bits_per_byte",
        "piqa",
        "arc_easy",
    ]
    assert "79.8" in done.stdout
    assert done.stderr == ""


def test_a_terminal_gets_the_table_and_no_records(here):
    code, shown = on_terminal("llama eval piqa --model model --data data --limit 2", here)
    assert code == 0
    assert "piqa  accuracy /characters" in shown
    assert '"metric"' not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "no task was named\n  try: llama eval --list\n"),
        (
            "pika",
            2,
            "no task 'pika'; there are bits_per_byte, piqa, arc_easy\n  try: llama eval piqa",
        ),
        (
            "zzz",
            2,
            "no task 'zzz'; there are bits_per_byte, piqa, arc_easy\n  try: llama eval --list",
        ),
        ("piqa", 1, "piqa needs valid.jsonl and valid-labels.lst, and they are not in any --data"),
        ("arc_easy --data data", 1, "arc_easy needs ARC-Easy-Test.jsonl, and they are not in data"),
        (
            "piqa --data held.jsonl --data data",
            2,
            "held.jsonl is no directory, and only bits_per_byte",
        ),
        ("bits_per_byte --data nothing", 2, "no file or directory nothing\n"),
        ("bits_per_byte --model model", 1, "bits_per_byte: no text to score\n"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(here, arguments, code, message):
    done = sh(f"llama eval {arguments}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llama eval: {message}")


def test_documents_are_not_awaited_from_a_terminal(here):
    code, shown = on_terminal("llama eval bits_per_byte --model model", here)
    assert code == 2
    assert "bits_per_byte needs documents: --data FILE, or stdin" in shown
