"""`llama eval fit-scorer` and `overlap` as processes, and what they bring to a score."""

import json
from pathlib import Path

import pytest

from tests.shell import sh
from tests.tiny import tiny_checkpoint

NICE, FOUL = "The cat holds the door open", "The cat is a blorf and a grak"


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A directory with a model, rows of RealToxicityPrompts, and documents with one of them."""
    directory = tmp_path_factory.mktemp("scorers")
    tiny_checkpoint(directory / "model")
    (directory / "data").mkdir()
    rows = [
        {
            "prompt": {"text": f"{NICE} for number {number} of the guests who come", "toxicity": 0},
            "continuation": {"text": f" {FOUL} {number}", "toxicity": 1},
        }
        for number in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "data" / "rtp_5000.jsonl").write_text(lines)
    document = {"id": "page", "text": f"Someone wrote: {rows[3]['prompt']['text'].upper()}."}
    (directory / "corpus.jsonl").write_text(json.dumps(document) + "\n")
    return directory


def test_a_fitted_scorer_scores_clean_and_dirty_rows_apart(here):
    done = sh("llama eval fit-scorer data/rtp_5000.jsonl -o foul.safetensors", here)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("linear:foul learned from ")
    assert "on others: Pearson 1.000, AUROC 1.000, n = " in done.stderr
    done = sh(
        "llama eval realtoxicityprompts_basic --model model --data data --limit 6 "
        "--scorer linear:foul.safetensors --against corpus.jsonl --rows rows.jsonl",
        here,
    )
    assert done.returncode == 0, done.stderr
    scores = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(score["metric"], score["group"], score["rows"]) for score in scores] == [
        ("toxicity/linear:foul", "", 6),
        ("toxicity/linear:foul", "clean", 5),
        ("toxicity/linear:foul", "dirty", 1),
    ]
    assert all(score["reported"] == {} for score in scores)
    assert "realtoxicityprompts_basic: 39 clean, 1 dirty, 0 short" in done.stderr
    marks = [json.loads(line) for line in (here / "rows.jsonl").read_text().splitlines()]
    assert [mark["meta"]["groups"] for mark in marks].index(["dirty"]) == 3


def test_the_stages_tell_the_same_and_processes_do_not_matter(here):
    script = "llama eval overlap realtoxicityprompts_basic --data data --against corpus.jsonl"
    outputs = {sh(f"{script} -q -j {jobs}", here).stdout for jobs in (1, 2)}
    assert len(outputs) == 1
    rows = list(map(json.loads, outputs.pop().splitlines()))
    assert len(rows) == 40
    assert [row for row in rows if row["subset"] != "clean"] == [
        {
            "task": "realtoxicityprompts_basic",
            "id": "3",
            "subset": "dirty",
            "documents": 1,
            "first": "page",
        }
    ]


def test_responses_are_graded_by_any_program_and_summed_by_contact(here):
    (here / "score.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    print(json.dumps({'id': row['id'], 'score': float('grak' in row['text'])}))\n"
    )
    (here / "answer.py").write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    print(json.dumps({'request': row, 'completions': ['grak' * (row['id'] == '3')]}))\n"
    )
    rows = "realtoxicityprompts_basic --data data"
    done = sh(
        f"llama eval overlap {rows} --against corpus.jsonl -q > o.jsonl;"
        f"llama eval render {rows} --limit 4 -q | python3 answer.py | "
        "llama eval grade -q --scorer 'command:python3 score.py' | "
        "llama eval summarise --overlap o.jsonl -q",
        here,
    )
    assert done.returncode == 0, done.stderr
    scores = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["metric"], each["group"], each["value"]) for each in scores] == [
        ("toxicity/command:python3:score.py", "", 0.25),
        ("toxicity/command:python3:score.py", "clean", 0.0),
        ("toxicity/command:python3:score.py", "dirty", 1.0),
    ]


@pytest.mark.parametrize(
    ("script", "said", "code"),
    [
        ("realtoxicityprompts_basic --data data --model model", "no scorer of toxicity", 1),
        ("grade --scorer lineal:x", "no scorer 'lineal:x'", 2),
        ("grade --scorer command:a --scorer toxicity=command:b", "two scorers of toxicity", 2),
        ("grade --scorer linear:none", "no scorer at none", 1),
        ("fit-scorer corpus.jsonl -o x", "corpus.jsonl:1: no scored text", 1),
        ("overlap realtoxicityprompts_basic --data data", "no corpus was named", 2),
        (
            "overlap realtoxicityprompts_basic --data data --against data/rtp_5000.jsonl",
            "data/rtp_5000.jsonl:1: no field 'text'",
            3,
        ),
    ],
)
def test_what_is_missing_is_one_clear_line(here, script, said, code):
    done = sh(f"llama eval {script}", here)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
