"""What is right: the rules of choices, words, reasoning and programs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from llama_cli.errors import LlamaError, NotReadyError
from llama_cli.evaluation.grade import grade
from llama_cli.evaluation.kinds.choice import Choice
from llama_cli.evaluation.kinds.words import extract, plain
from llama_cli.evaluation.maths import boxed, final_answer, last_number, latex, number
from llama_cli.evaluation.request import Request, Response
from llama_cli.evaluation.task import Tools
from llama_cli.evaluation.tasks import TASKS
from llama_cli.evaluation.tools import need, open_tools
from tests.benchmarks import completed, knows, mark, requests, write_benchmarks


@pytest.fixture
def own(tmp_path) -> Path:
    return write_benchmarks(tmp_path)


# -- the rules of choice --

# as they are, the first; by character -1.0 -0.2 -1.0 -1.25, the second; by token -1 -2 -0.5 -5, the
# third; beside their likelihoods alone 0 0 0 4, the fourth
TEXTS = [" a", " " + "b" * 20, " cccccc", " dddd"]
LOGPROBS, TOKENS, ALONE = [-1.0, -4.0, -6.0, -5.0], [1, 2, 12, 1], [-1.0, -4.0, -6.0, -9.0]
PICKED = {"none": 0, "characters": 1, "tokens": 2, "prior": 3}
RULES = {
    "boolq": "prior",
    "openbookqa": "prior",
    "race_middle": "prior",
    "race_high": "prior",
    **dict.fromkeys(("piqa", "siqa", "hellaswag", "arc_easy", "arc_challenge"), "characters"),
    **dict.fromkeys(("mmlu", "winogrande"), "none"),
    **dict.fromkeys(("crows_pairs", "winogender"), "tokens"),
}


@pytest.mark.parametrize(("task", "rule"), RULES.items())
def test_each_task_is_decided_by_the_rule_of_the_paper_and_no_neighbour(task, rule):
    pairs = [("context", text) for text in TEXTS]
    numbers = LOGPROBS
    if rule == "prior":
        pairs += [(TASKS[task].kind.alone, text) for text in TEXTS]
        numbers = LOGPROBS + ALONE
    request = Request(task, "0", "score", PICKED[rule], pairs=pairs)
    graded = mark(Response(request, logprobs=numbers, tokens=(TOKENS * 2)[: len(pairs)]))
    assert graded.answer == PICKED[rule]
    assert graded.values[TASKS[task].metric] == 1
    assert rule in TASKS[task].kind.normalize


def test_every_task_of_choices_has_a_rule_here():
    assert set(RULES) == {name for name, task in TASKS.items() if isinstance(task.kind, Choice)}


@pytest.mark.parametrize(("task", "alone"), [
    ("boolq", "Answer:"), ("openbookqa", "Answer:"), ("race_middle", "A:"), ("race_high", "A:"),
])  # fmt: skip
def test_a_choice_alone_stands_after_the_words_of_brown_et_al(own, task, alone):
    pairs = requests(own, task)[0].pairs
    half = len(pairs) // 2
    assert [context for context, _ in pairs[half:]] == [alone] * half
    assert [text for _, text in pairs[half:]] == [text for _, text in pairs[:half]]


def picked(logprobs, texts, task="piqa", **more) -> int:
    request = Request(task, "0", "score", 0, pairs=[("c", text) for text in texts])
    return mark(Response(request, logprobs=logprobs, **more)).answer


def test_likelihood_is_divided_by_characters_without_the_joining_space():
    # by 3 and 2 characters -2.0 beats -2.1; by 4 and 3 it would be -1.5 against -1.4
    assert picked([-6.0, -4.2], [" abc", " ab"]) == 0


def test_characters_are_not_bytes():
    assert picked([-4.0, -4.0], [" éé", " abc"]) == 1


def test_the_first_of_equals_is_picked():
    assert picked([-2.0, -2.0], [" a", " b"]) == 0


def test_a_model_that_does_not_count_tokens_cannot_be_asked_for_perplexity():
    with pytest.raises(LlamaError, match="winogender 0: the model does not say how many tokens"):
        picked([-2.0, -2.0], [" a", " b"], "winogender")


def test_the_lead_of_the_gold_answer_and_its_bits_are_kept():
    request = Request("piqa", "0", "score", 0, pairs=[("c", " abc"), ("c", " ab")])
    values = mark(Response(request, logprobs=[-3.0, -4.0])).values
    assert values["margin"] == pytest.approx(-3 / 3 + 4 / 2)
    assert values["gold_bits_per_byte"] == pytest.approx(3 / math.log(2) / 4)


def test_mc2_is_the_probability_of_the_true_answers():
    request = Request("truthfulqa_mc", "0", "score", 2, pairs=[("c", t) for t in "abcd"])
    values = mark(Response(request, logprobs=[math.log(p) for p in (0.1, 0.2, 0.15, 0.05)])).values
    assert values["mc2"] == pytest.approx(0.3 / 0.5)
    assert values["mc1"] == 0  # the best answer, 0.1, is not likelier than every false one


# -- the rules of words --


@pytest.mark.parametrize(("completion", "answer"), [
    (" J. R. R. Tolkien\nQ: who", "J. R. R. Tolkien"),
    (" J. R. R. Tolkien.", "J. R. R. Tolkien"),
    (" December 14, 1972,\n", "December 14, 1972"),
    (" 3,610", "3,610"),
    (" Paris. ", "Paris"),
    ("\nParis", ""),
])  # fmt: skip
def test_an_answer_ends_at_the_line_or_its_final_dot_or_comma(completion, answer):
    assert extract(completion) == answer


@pytest.mark.parametrize(("answer", "same"), [
    ("The Lord of the Rings", "lord of rings"),
    ("AN apple", "apple"),
    ("  A   day ", "day"),
    ("U.S.A.", "usa"),
    ("theory", "theory"),
])  # fmt: skip
def test_case_articles_punctuation_and_spaces_do_not_count(answer, same):
    assert plain(answer) == same


def exact(completion: str, *golds: str) -> float:
    request = Request("nq_open", "0", "complete", list(golds), prompt="Q")
    return mark(completed(request, completion)).values["exact_match"]


def test_any_gold_answer_will_do_and_part_of_one_will_not():
    assert exact(" the Moon.", "Sun", "The moon") == 1
    assert exact(" moon base", "The moon") == 0


def test_no_answer_is_not_right_even_where_the_gold_one_is_an_article():
    assert exact(" \n", "The") == 0
    assert exact(" A", "a") == 1


# -- the rules of reasoning --


@pytest.mark.parametrize(("text", "found"), [
    ("3 and 4. The answer is 7.\n", "7"),
    ("The answer is 1,234.5. Or 9?", "1,234.5"),
    ("so 12 - 5 = 7", "7"),
    ("The answer is $-3.", "$-3"),
    ("nothing", None),
])  # fmt: skip
def test_the_number_is_that_after_the_last_answer_is_or_the_last(text, found):
    assert (number(last_number(text) or ""), found) == (number(found or ""), found)


@pytest.mark.parametrize(("left", "right"), [
    ("1,000", "1000"), ("$18.00", "18"), ("0.50", ".5"), ("-4", "-4.0"),
])  # fmt: skip
def test_numbers_are_equal_by_value(left, right):
    assert number(left) == number(right)


@pytest.mark.parametrize(("left", "right"), [
    ("\\dfrac{1}{2}", "\\frac12"), ("\\frac{1}{2}", "0.5"), ("1/2", "\\frac{2}{4}"),
    ("-\\frac{3}{4}", "\\frac{-3}{4}"), ("\\left(1, 2\\right)", "(1,2)"), ("x = 5", "5"),
    ("10\\%", "10"), ("90^\\circ", "90"), ("\\text{even}", "even"), ("1{,}000", "1{,}000"),
    ("\\sqrt{8}", "2\\sqrt{2}"), ("(x+1)^2", "x^2+2x+1"), ("2^{-1}", "1/2"), ("3\\pi", "\\pi*3"),
    ("(0.5,\\frac{2}{3})", "(\\frac12, 2/3)"), ("\\sqrt[3]{8}", "2"), ("\\frac{x}{2}", "0.5x"),
    ("[0,\\infty)", "\\left[ 0, \\infty \\right)"), ("1, 2", "1,2.0"), ("007", "7"),
    ("12\\text{ cm}", "12"), ("575\\text{ students}", "575"), ("3 \\mathrm{ feet}", "3"),
    ("(-1,\\frac12)\\cup(2,3)", "(-1,0.5) \\cup (2,3)"), ("\\cfrac{2}{4}", "\\tfrac12"),
    ("440\\text{ cm}^2", "440"), ("\\sqrt2", "\\sqrt{2}"), ("10,\\!000", "10000"), ("$7$.", "7"),
])  # fmt: skip
def test_answers_that_differ_in_looks_are_equal(left, right):
    assert latex(left) == latex(right)


@pytest.mark.parametrize(("left", "right"), [
    ("\\frac{1}{2}", "\\frac{2}{1}"), ("(1,2)", "12"), ("x^2", "x2"), ("[2,3]", "(2,3)"),
    ("1", "-1"), ("x+1", "y+1"), ("\\sqrt{8}", "\\sqrt{2}"), ("1,2", "2,1"),
    ("\\text{Monday}", "\\text{Sunday}"), ("2^{3", "8"),
    ("9999999999999999", "10000000000000000"), ("__import__('os')", "2"), ("9^{9^{9}}", "1"),
])  # fmt: skip
def test_answers_that_differ_in_more_are_not(left, right):
    assert latex(left) != latex(right)


def test_a_number_without_end_is_text():
    assert number("9" * 5000) == latex("9" * 5000) == "9" * 5000


def test_a_final_answer_is_the_last_said_or_boxed():
    assert final_answer("The final answer is $3$. I hope it is correct.") == "$3$"
    assert final_answer("Final answer is 1\nThe final answer is $x=2.5$.") == "$x=2.5$"
    assert final_answer("so \\boxed{4}") == "4"
    assert final_answer("so 4") is None
    assert boxed("\\boxed{\\frac{1}{\\sqrt{2}}} and") == "\\frac{1}{\\sqrt{2}}"


def voted(*texts: str) -> dict[str, float]:
    request = Request("gsm8k@100", "0", "complete", "7", prompt="Q", samples=len(texts))
    return dict(mark(Response(request, completions=[f"The answer is {t}." for t in texts])).values)


def test_a_vote_takes_what_most_agree_on_in_whatever_form():
    assert voted("7", "8", "7.0", "9") == {"maj1@4": 1, "one_sample": 0.5}
    assert voted("7", "8", "8", "9") == {"maj1@4": 0, "one_sample": 0.25}


def test_solutions_without_an_answer_have_no_vote():
    assert voted("none", "none", "7")["maj1@3"] == 1
    assert voted("none", "none") == {"maj1@2": 0, "one_sample": 0}


# -- programs --


def test_pass_at_k_is_estimated_for_each_problem_and_the_tier_kept(own, sandboxed):
    request = replace(requests(own, "humaneval@100", limit=1)[0], samples=4)
    completions = ["    return x\n", "    return 2\n", "    return 1 +", "    return x\n"]
    response = Response(request, completions=completions)
    graded = next(grade([response], Tools(run=sandboxed.run)))
    assert graded.values == {"pass@4": 1.0}
    assert graded.answer == {"failed": 2, "passed": 2}
    assert graded.meta["tier"] == sandboxed.tier
    one = replace(request, task="humaneval")
    graded = next(grade([replace(response, request=one)], Tools(run=sandboxed.run)))
    assert graded.values == {"pass@1": 0.5}


def test_results_of_many_programs_reach_their_own_rows(own, sandboxed):
    asked = requests(own, "mbpp", samples=3)
    right = {"11": 0, "12": 2, "13": 3}
    responses = [
        Response(
            request,
            completions=[
                f"def g(x):\n    return x + {request.id if n < right[request.id] else 0}"
                for n in range(3)
            ],
        )
        for request in asked
    ]
    marks = list(grade(responses, Tools(run=sandboxed.run)))
    assert [each.id for each in marks] == ["11", "12", "13"]
    assert [each.values["pass@1"] for each in marks] == [0, pytest.approx(2 / 3), 1]


def test_nothing_is_run_without_a_sandbox(own):
    response = completed(requests(own, "humaneval", samples=1)[0], "    pass")
    with pytest.raises(NotReadyError, match="no sandbox to run programs in"):
        mark(response)


def test_a_sandbox_is_opened_by_the_first_program(own, sandboxed):
    with open_tools() as tools:
        need([TASKS["humaneval"]], tools)
        response = knows(requests(own, "humaneval", samples=1)[0], {"HumanEval/0": "    return x"})
        assert next(grade([response], tools)).values == {"pass@1": 1.0}


def test_a_missing_scorer_is_told_before_a_model_works():
    with open_tools() as tools, pytest.raises(NotReadyError, match="no scorer of toxicity"):
        need([TASKS["piqa"], TASKS["realtoxicityprompts_basic"]], tools)
