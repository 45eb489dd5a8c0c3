"""`llama eval` and its stages as processes, with a tiny model and benchmark files made here."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llama_cli.cli import main
from llama_cli.commands.eval import command
from llama_cli.errors import NotReadyError
from llama_cli.evaluation.tasks import TASKS
from tests.benchmarks import write_benchmarks
from tests.shell import on_terminal, sh
from tests.tiny import tiny_checkpoint

# a model that any program can be: it takes the first of equals, and says it knows no number
ANY = """jq -c '{request: ., model: "any", bos: false,
  logprobs: [.pairs[] | -(.[1] | length)], tokens: [.pairs[] | 1],
  completions: [range(.samples) | " no idea"]}
  | if .request.kind == "score" then .completions = [] else . end'"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, every benchmark in its official format, and documents."""
    directory = tmp_path_factory.mktemp("eval")
    tiny_checkpoint(directory / "model")
    write_benchmarks(directory / "data")
    documents = [{"id": str(n), "text": "The cat opens the table. " * n} for n in range(1, 9)]
    (directory / "held.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    return directory


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(here: Path) -> subprocess.CompletedProcess[str]:
    return sh(
        "llama eval piqa bits_per_byte --model model --data data --data held.jsonl "
        "--rows rows.jsonl --report report.json",
        here,
    )


def test_scores_are_records_and_the_table_is_for_people(
    here: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    done = whole
    piqa, margin, gold_bits, bits = records(done.stdout)
    rows = records((here / "rows.jsonl").read_text())
    assert [row["task"] for row in rows] == ["piqa"] * 2 + ["bits_per_byte"] * 8
    assert piqa["value"] == 50 * sum(row["values"]["accuracy"] for row in rows[:2])
    assert piqa["reported"] == {"7B": 79.8, "13B": 80.1, "33B": 82.3, "65B": 82.8}
    assert piqa["protocol"]["bos"] is True
    assert (margin["metric"], gold_bits["metric"]) == ("margin", "gold_bits_per_byte")
    held = [row["values"] for row in rows[2:]]
    assert bits["value"] == pytest.approx(
        sum(row["bits"] for row in held) / sum(row["bytes"] for row in held)
    )
    assert "piqa           accuracy /characters" in done.stderr
    assert "79.8" in done.stderr
    result = json.loads((here / "report.json").read_text())["result"]
    assert (result["in"], result["out"], result["scores"]["piqa"]) == (10, 4, piqa["value"])


def test_a_dry_run_shows_what_the_model_would_see_and_needs_none(here: Path) -> None:
    done = sh("llama eval piqa bits_per_byte --data data --limit 1 --dry-run < held.jsonl", here)
    first, second = records(done.stdout)
    assert (first["task"], first["id"], first["kind"], first["gold"]) == ("piqa", "0", "score", 0)
    assert first["pairs"] == [
        ["Question: g0\nAnswer:", " eat it"],
        ["Question: g0\nAnswer:", " go"],
    ]
    assert second["pairs"] == [["", "The cat opens the table. "]]


def test_the_stages_make_a_pipe_and_any_program_can_be_the_model(here: Path) -> None:
    tasks = "piqa boolq nq_open mmlu humaneval"
    done = sh(
        f"llama eval render {tasks} --data data --samples 2 | {ANY} > responses.jsonl && "
        "llama eval grade responses.jsonl -j 2 > graded.jsonl && "
        "llama eval summarise < graded.jsonl",
        here,
    )
    assert done.returncode == 0
    scores = [score for score in records(done.stdout) if not score["group"]]
    values = {(score["task"], score["metric"]): score["value"] for score in scores}
    assert (values["nq_open", "exact_match"], values["humaneval", "pass@1"]) == (0, 0)
    assert {score["model"] for score in scores} == {"any"}
    assert {score["protocol"]["bos"] for score in scores} == {False}
    tiers = [score["protocol"].get("tier") for score in scores if score["task"] == "humaneval"]
    assert tiers != [None]
    rows = [row for row in records((here / "graded.jsonl").read_text()) if row["task"] == "mmlu"]
    assert [row["answer"] for row in rows] == [0] * 5


def test_grading_again_needs_neither_model_nor_benchmarks(here: Path, tmp_path: Path) -> None:
    done = sh(f"llama eval render piqa nq_open --data data | {ANY}", here)
    again = [sh("llama eval grade", tmp_path, stdin=done.stdout) for _ in range(2)]
    assert again[0].stdout == again[1].stdout
    assert len(records(again[0].stdout)) == 11


def test_the_whole_asks_what_its_stages_do(
    here: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    """The same prompts, by their hash."""
    parts = sh(
        f"llama eval render piqa --data data | {ANY} | llama eval grade | llama eval summarise",
        here,
    )
    one, other = records(whole.stdout)[0], records(parts.stdout)[0]
    assert one["protocol"]["prompt"] == other["protocol"]["prompt"]
    assert (one["model"], other["model"]) == ("model", "any")


def test_shots_are_left_out_where_a_model_has_no_room_for_them(here: Path) -> None:
    words = f"mmlu --fit {here}/model --data {here}/data -o {here}/fitted.jsonl"
    done = CliRunner().invoke(command.word("render"), words.split())
    assert done.exit_code == 0
    (shots,) = {row["meta"]["shots"] for row in records((here / "fitted.jsonl").read_text())}
    assert shots == 0  # its context is of 64 tokens, and one question takes more


@pytest.mark.parametrize("stage", ["eval render", "eval --dry-run"])
def test_a_line_that_is_no_document_is_no_part_of_a_benchmark(tmp_path: Path, stage: str) -> None:
    (tmp_path / "held.jsonl").write_text('{"id": "1", "text": "The cat."}\n{"id": "2"}\n')
    words = [*stage.split(), "bits_per_byte", "--data", f"{tmp_path}/held.jsonl"]
    words += ["-o", f"{tmp_path}/asked"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 3
    assert f"{tmp_path}/held.jsonl:2: no field 'text'\n" in done.stderr
    assert "1 malformed line, more than the 0 allowed\n" in done.stderr
    allowed = CliRunner().invoke(main, [*words, "--max-rejects", "1"])
    assert (allowed.exit_code, len(records((tmp_path / "asked").read_text()))) == (0, 1)


def test_a_stage_names_the_line_that_is_wrong(here: Path) -> None:
    done = sh("echo '{}' | llama eval grade", here)
    assert done.returncode == 3
    assert "<stdin>:1: a response has its request\n" in done.stderr
    assert "more than the 0 allowed" in done.stderr


def test_published_examples_are_read_from_a_file(here: Path) -> None:
    (here / "minerva.txt").write_text("Problem:\nOne?\n\nSolution:\nOne.\n\n")
    done = sh("llama eval render math --examples math=minerva.txt --data data", here)
    assert records(done.stdout)[0]["prompt"].startswith("Problem:\nOne?\n\nSolution:\nOne.\n\nProb")


def test_the_tasks_are_listed_with_shots_rules_and_figures(tmp_path: Path) -> None:
    done = sh("llama eval --list", tmp_path)
    named = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert set(named) - {"task"} == set(TASKS)
    assert "79.8" in done.stdout
    assert done.stderr == ""


def test_a_terminal_gets_the_table_and_no_records(here: Path) -> None:
    code, shown = on_terminal("llama eval piqa --model model --data data --limit 2", here)
    assert code == 0
    assert "accuracy /characters" in shown
    assert '"metric"' not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "no task was named\n  try: llama eval --list\n"),
        ("pika", 2, "no task 'pika'\n  try: llama eval piqa"),
        ("gradee", 2, "no task 'gradee'\n  try: llama eval grade\n"),
        ("zzz", 2, "no task 'zzz'\n  try: llama eval --list"),
        ("piqa", 1, "piqa needs valid.jsonl and valid-labels.lst, and they are not in any --data"),
        ("mmlu --data model", 1, "mmlu needs test/*_test.csv, and they are not in model"),
        (
            "piqa --data held.jsonl --data data",
            2,
            "held.jsonl is no directory, and only bits_per_byte",
        ),
        ("bits_per_byte --data nothing", 2, "no file or directory nothing\n"),
        ("bits_per_byte --model model", 1, "no rows to score\n"),
        ("piqa --shots 1 --data data --model model", 2, "piqa is asked without worked examples"),
        ("piqa --examples piqa --data data", 2, "--examples piqa is not TASK=FILE"),
        (
            "math --examples math=/dev/null --data data",
            2,
            "--examples math=/dev/null: /dev/null has",
        ),
        ("math --examples math=cut.txt --data data", 2, "--examples math=cut.txt: cut.txt ends in"),
        ("piqa --data data/piqa/valid.jsonl", 2, "data/piqa/valid.jsonl is no directory, and only"),
        ("piqa --data data --model none -o no/x", 1, "no/x: No such file or directory\n"),
        ("piqa --data data --model none --rows data", 1, "data: Is a directory\n"),
        ("piqa --data data --model none -o x.xz", 2, "cannot write .xz\n  try: a name that ends"),
        ("piqa --data data --model none -o x", 1, "no checkpoint in none\n"),
        ("math --examples math=no.txt --data data", 1, "no.txt: No such file or directory"),
        (
            "realtoxicityprompts_basic --data data --model model",
            1,
            "no scorer of toxicity to grade with",
        ),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    here: Path, arguments: str, code: int, message: str
) -> None:
    (here / "cut.txt").write_text("Problem:\nP\n\nSolution:\nS")
    done = sh(f"llama eval {arguments}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"llama eval: {message}")
    assert not (here / "x").exists()


def test_a_model_without_a_tokenizer_is_told(here: Path) -> None:
    shutil.copytree(here / "model", here / "bare", ignore=lambda *_: ["tokenizer.model"])
    words = f"piqa --data {here}/data --model {here}/bare"
    with pytest.raises(NotReadyError, match=rf"^no tokenizer at {here}/bare/tokenizer.model$"):
        CliRunner().invoke(command, words.split(), catch_exceptions=False)


@pytest.mark.parametrize("stage", ["", f" | {ANY} | llama eval grade"])
def test_a_full_disk_is_one_clear_line(here: Path, stage: str) -> None:
    done = sh(f"llama eval render piqa --data data{stage} > /dev/full", here)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("llama eval")
    assert lines[-1].endswith("<stdout>: No space left on device")
    assert "Traceback" not in done.stderr


def test_a_table_that_cannot_be_written_does_not_undo_the_work(
    here: Path, whole: subprocess.CompletedProcess[str]
) -> None:
    done = sh("llama eval summarise rows.jsonl 2> /dev/full", here)
    assert done.returncode == 0
    assert [score["task"] for score in records(done.stdout)] == ["piqa"] * 3 + ["bits_per_byte"]


def test_documents_are_not_awaited_from_a_terminal(here: Path) -> None:
    code, shown = on_terminal("llama eval bits_per_byte --model model", here)
    assert code == 2
    assert "bits_per_byte needs documents: --data FILE, or stdin" in shown
