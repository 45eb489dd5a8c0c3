"""Programs of HumanEval and MBPP, and pass@k from arithmetic."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.programs import (
    HUMANEVAL_STOPS,
    cut,
    humaneval,
    mbpp,
    mean_pass_at_k,
    pass_at_k,
)
from llama_cli.evaluation.request import Response
from llama_cli.evaluation.task import Tools
from llama_cli.evaluation.tasks import TASKS
from tests.shell import SHARED

Row = Mapping[str, Any]
ADD = {
    "prompt": 'def add(a, b):\n    """Add."""\n',
    "entry_point": "add",
    "test": "\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
}
SQUARE = {
    "test_setup_code": "import math",
    "test_list": ["assert square(3) == math.pow(3, 2)", "assert square(0) == 0"],
}


def rows(name: str) -> list[Row]:
    path = SHARED / "data" / "eval" / name
    if not path.exists():
        pytest.skip("the benchmarks are not beside the checkout")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("stop", ["\nclass A:", "\ndef f():", "\n# then", "\nif x:", "\nprint(1)"])
def test_a_completion_of_humaneval_ends_before_the_next_thing_at_the_left(stop):
    assert cut(f"    return a + b\n{stop}", HUMANEVAL_STOPS) == "    return a + b\n"


def test_what_stands_further_right_is_part_of_the_function():
    body = "    if a:\n        # so\n        print(a)\n    return a"
    assert cut(body, HUMANEVAL_STOPS) == body


def test_the_first_stop_counts_whatever_its_place_in_the_list():
    assert cut("x\nprint\nclass", HUMANEVAL_STOPS) == "x"


def test_a_program_of_humaneval_calls_its_tests(sandboxed):
    right, wrong = humaneval(ADD, "    return a + b\n"), humaneval(ADD, "    return a - b\n")
    assert [result.outcome for result in sandboxed.run([right, wrong])] == ["passed", "failed"]


def test_a_program_of_mbpp_has_what_its_tests_need_and_ends_at_done(sandboxed):
    right, wrong = "def square(x):\n    return x * x\n", "def square(x):\n    return x + x\n"
    programs = [mbpp(SQUARE, f"{code}[DONE]\n1 +") for code in (right, wrong)]
    assert [result.outcome for result in sandboxed.run(programs)] == ["passed", "failed"]


def test_a_program_ends_with_a_line_end_so_that_a_comment_hides_no_test():
    assert humaneval(ADD, "    return 0  # done").splitlines()[-1] == "check(add)"
    assert mbpp(SQUARE, "square = 0  # done").splitlines()[-1] == SQUARE["test_list"][-1]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "task", "solution", "count"),
    [
        ("humaneval/HumanEval.jsonl", "humaneval", "canonical_solution", 82),
        ("mbpp/mbpp.jsonl", "mbpp", "code", 260),
    ],
)
def test_every_reference_solution_passes(
    sandboxed, name: str, task: str, solution: str, count: int
):
    """Through the stage that grades, for every row of the file, worked examples too."""
    responses = []
    for row in rows(name):
        request = replace(TASKS[task].kind.ask(row, ""), task=task, id=str(row["task_id"]))
        request = replace(request, samples=1)
        responses.append(Response(request, completions=[row[solution]]))
    graded = list(grade(responses, Tools(run=sandboxed.run)))
    failed = {each.id: each.answer for each in graded if each.values != {"pass@1": 1.0}}
    assert (failed, len(graded)) == ({}, count)
    assert {each.meta["tier"] for each in graded} == {sandboxed.tier}


@pytest.mark.data
def test_no_solution_passes_that_is_none(sandboxed):
    empty = [humaneval(row, "    pass\n") for row in rows("humaneval/HumanEval.jsonl")]
    assert not any(result.passed for result in sandboxed.run(empty))


@pytest.mark.parametrize(
    ("samples", "passed", "k", "chance"),
    [
        (1, 1, 1, 1.0),
        (1, 0, 1, 0.0),
        (10, 3, 1, 0.3),
        (5, 2, 3, 0.9),  # 1 - C(3,3) / C(5,3) = 1 - 1/10
        (6, 2, 2, 0.6),  # 1 - C(4,2) / C(6,2) = 1 - 6/15
        (100, 1, 100, 1.0),
    ],
)
def test_pass_at_k_is_the_chance_that_one_of_k_drawn_samples_passed(samples, passed, k, chance):
    assert pass_at_k(samples, passed, k) == pytest.approx(chance)


@given(st.data())
def test_pass_at_k_is_that_of_exact_fractions(data):
    samples = data.draw(st.integers(1, 300))
    passed, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    exact = 1 - Fraction(math.comb(samples - passed, k), math.comb(samples, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(exact), abs=1e-12)


@pytest.mark.parametrize(("samples", "passed", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_what_cannot_be_estimated_is_an_error(samples, passed, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, passed, k)


def test_the_figure_of_a_benchmark_is_the_mean_over_its_problems():
    assert mean_pass_at_k([(4, 4), (4, 0), (4, 1)], 1) == pytest.approx((1 + 0 + 0.25) / 3)
