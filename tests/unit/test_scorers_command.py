"""Any program as a scorer, and how a scorer is chosen."""

import sys

import pytest

from llama_cli.errors import LlamaError, NotReadyError, UsageError
from llama_cli.evaluation.scorers.choose import choose

BACKWARDS = """
import json, sys
rows = [json.loads(line) for line in sys.stdin]
for row in reversed(rows):
    print(json.dumps({"id": row["id"], "score": len(row["text"]) / 10}))
"""


def program(tmp_path, text):
    path = tmp_path / "score.py"
    path.write_text(text)
    return choose(f"command:{sys.executable} -I -S {path}")


def test_answers_are_put_in_the_order_of_the_texts(tmp_path):
    scorer = program(tmp_path, BACKWARDS)
    assert scorer(["a", "three", "é\n\ud800"]) == [0.1, 0.5, 0.3]
    assert scorer([]) == []
    assert scorer.name == f"command:{sys.executable.rpartition('/')[2]}:score.py"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)", "ended with 3"),
        ("print('hello')", r"line 1 is not \{'id', 'score'\}: b'hello'"),
        ('print(\'{"id": 0, "score": 1.5}\')', "a score is 0 to 1, not 1.5"),
        ('print(\'{"id": 0, "score": 0.5}\')', "no score for text 1 of 2"),
    ],
)
def test_a_program_that_does_not_do_its_work_is_told(tmp_path, text, said):
    with pytest.raises(LlamaError, match=said):
        program(tmp_path, text)(["a", "b"])


def test_a_program_that_is_not_there_is_told():
    with pytest.raises(NotReadyError, match="no-such-scorer x: No such file"):
        choose("command:no-such-scorer x")(["a"])


@pytest.mark.parametrize("spec", ["perspektive:key", "linear", "linear:", ""])
def test_a_scorer_that_there_is_not_is_told(spec):
    with pytest.raises(UsageError, match=f"no scorer '{spec}'"):
        choose(spec)
